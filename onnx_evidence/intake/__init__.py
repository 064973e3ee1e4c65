"""Taking in a deployed file: whatever it looks like outside, a classifier of NCHW pictures with logits inside.

Imported by: batch, cli, cuts, deployed, explainer, export.
"""

from onnx_evidence.intake.answer import Answer, Answers
from onnx_evidence.intake.codes import unsigned
from onnx_evidence.intake.deployed_file import as_file_takes_it, representable
from onnx_evidence.intake.entry import Entry
from onnx_evidence.intake.exported import RECORD, SCHEMA, export_record
from onnx_evidence.intake.labels import LABELS_KEY, check_labels, find_class, given_labels, name_both, read_labels
from onnx_evidence.intake.model import Model, exported_graph, load_model
from onnx_evidence.intake.peek import look
from onnx_evidence.intake.proof import CODES, FULL, Arithmetic
from onnx_evidence.intake.read import read_file

__all__ = [
    "CODES",
    "FULL",
    "LABELS_KEY",
    "RECORD",
    "SCHEMA",
    "Answer",
    "Answers",
    "Arithmetic",
    "Entry",
    "Model",
    "as_file_takes_it",
    "check_labels",
    "export_record",
    "exported_graph",
    "find_class",
    "given_labels",
    "load_model",
    "look",
    "name_both",
    "read_file",
    "read_labels",
    "representable",
    "unsigned",
]
