"""Folders of pictures: runs that lose nothing, and receipts that can be checked.

A run is planned (`plan`), its folder is held by one process (`folder`) that alone writes the journal (`journal`,
`manifest`); pictures are explained one by one (`work`), here or in other processes (`pool`).

Imported by: cli.
"""

from onnx_evidence.batch import fingerprint, report
from onnx_evidence.batch.cluster import on_cluster
from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.interrupt import Interrupt
from onnx_evidence.batch.loop import Progress, Runner, Tally, here, run_jobs
from onnx_evidence.batch.plan import Item, check_questions, look, make_plan, parse_shard, take_shard, together
from onnx_evidence.batch.pool import spawned
from onnx_evidence.batch.recompute import TOLERANCE, finder, recompute_all, verification
from onnx_evidence.batch.reopen import Origin
from onnx_evidence.batch.shards import merge
from onnx_evidence.batch.sound import Sample, draw
from onnx_evidence.batch.summary import Cohort, is_table, summarise, write_table
from onnx_evidence.batch.verify import check_hashes
from onnx_evidence.batch.work import Hand, Job, Outcome, Recipe

__all__ = [
    "TOLERANCE",
    "Cohort",
    "Hand",
    "Interrupt",
    "Item",
    "Job",
    "Origin",
    "Outcome",
    "Progress",
    "Recipe",
    "ResultFolder",
    "Runner",
    "Sample",
    "Tally",
    "check_hashes",
    "check_questions",
    "draw",
    "finder",
    "fingerprint",
    "here",
    "is_table",
    "look",
    "make_plan",
    "merge",
    "on_cluster",
    "parse_shard",
    "recompute_all",
    "report",
    "run_jobs",
    "spawned",
    "summarise",
    "take_shard",
    "together",
    "verification",
    "write_table",
]
