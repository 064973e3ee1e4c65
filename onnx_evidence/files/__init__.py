"""Files in folders that others can write to: opened without following links, read within bounds.

Imported by: batch, cli, deployed, evaluation, intake, methods, pictures, preprocessing, results, sessions.
"""

from onnx_evidence.files import machine
from onnx_evidence.files.arrays import MOST_BYTES, Head, heads_of, pack_arrays, unpack_arrays
from onnx_evidence.files.cache import NOTHING_KEPT, Cache
from onnx_evidence.files.inside import MOST, open_inside, open_regular, sha256_of
from onnx_evidence.files.machine import available_threads, count_gpus, describe_machine, thread_share
from onnx_evidence.files.replacing import check_replaced
from onnx_evidence.files.store import (
    PARTIAL,
    check_folder,
    check_writable,
    finite_json,
    json_line,
    make_folder,
    remove_files,
    sync_folder,
    write_arrays,
    write_atomic,
    write_bytes,
    write_files,
)
from onnx_evidence.files.text import csv_text, fit, several, shown, visible
from onnx_evidence.files.texts import parse_json, parse_toml, read_text
from onnx_evidence.files.walking import below, leads_into

__all__ = [
    "MOST",
    "MOST_BYTES",
    "NOTHING_KEPT",
    "PARTIAL",
    "Cache",
    "Head",
    "available_threads",
    "below",
    "check_folder",
    "check_replaced",
    "check_writable",
    "count_gpus",
    "csv_text",
    "describe_machine",
    "finite_json",
    "fit",
    "heads_of",
    "json_line",
    "leads_into",
    "machine",
    "make_folder",
    "open_inside",
    "open_regular",
    "pack_arrays",
    "parse_json",
    "parse_toml",
    "read_text",
    "remove_files",
    "several",
    "sha256_of",
    "shown",
    "sync_folder",
    "thread_share",
    "unpack_arrays",
    "visible",
    "write_arrays",
    "write_atomic",
    "write_bytes",
    "write_files",
]
