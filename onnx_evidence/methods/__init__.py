"""How evidence is asked for: the methods, their settings, and what they need to be ready at a cut.

Imported by: batch, cli, evaluation, explainer, export.
"""

from onnx_evidence.methods.background_file import Header, is_background, save_background
from onnx_evidence.methods.baselines import BLURRED, own_means
from onnx_evidence.methods.choice import check_settings, known_by, settings_of_receipt
from onnx_evidence.methods.combine import combined
from onnx_evidence.methods.engine import CutMap, Question, View, check_finite, placed
from onnx_evidence.methods.fit import fit_background
from onnx_evidence.methods.path import PathEngine
from onnx_evidence.methods.preparation import prepare
from onnx_evidence.methods.questions import TOP, ask, check_targets, listed
from onnx_evidence.methods.record import TOP_CLASSES, fixed_record, make_record
from onnx_evidence.methods.relevance import SMOOTHED
from onnx_evidence.methods.settings import (
    BLUR,
    BOTH,
    DEFAULT_METHOD,
    MEAN,
    OPTIONS,
    PLAIN_MEAN,
    QUALITIES,
    WITH_RELEVANCE,
    ZERO,
    Keywords,
    Option,
    Settings,
)
from onnx_evidence.methods.table import FALLBACK_METHODS, METHODS

__all__ = [
    "BLUR",
    "BLURRED",
    "BOTH",
    "DEFAULT_METHOD",
    "FALLBACK_METHODS",
    "MEAN",
    "METHODS",
    "OPTIONS",
    "PLAIN_MEAN",
    "QUALITIES",
    "SMOOTHED",
    "TOP",
    "TOP_CLASSES",
    "WITH_RELEVANCE",
    "ZERO",
    "CutMap",
    "Header",
    "Keywords",
    "Option",
    "PathEngine",
    "Question",
    "Settings",
    "View",
    "ask",
    "check_finite",
    "check_settings",
    "check_targets",
    "combined",
    "fit_background",
    "fixed_record",
    "is_background",
    "known_by",
    "listed",
    "make_record",
    "own_means",
    "placed",
    "prepare",
    "save_background",
    "settings_of_receipt",
]
