"""From a picture to the model's input, as the trainers' libraries do it: the contract, its sources, carrying it out.

Imported by: batch, cli, cuts, deployed, evaluation, explainer, export, intake, methods.
"""

from onnx_evidence.preprocessing import apply
from onnx_evidence.preprocessing.apply import how_taken, read_picture, to_input
from onnx_evidence.preprocessing.contract import WHITE, Preprocess, given_preprocess, make_preprocess
from onnx_evidence.preprocessing.found import METADATA_KEY, Found, find_preprocess, not_recorded
from onnx_evidence.preprocessing.presets import PREPROCESSED, PRESETS, Wanted, preset
from onnx_evidence.preprocessing.synthetic import MARGIN, InputRange, likely_ranges, range_of, trials
from onnx_evidence.preprocessing.whole import check_levels, check_whole
from onnx_evidence.preprocessing.words import in_words, recipe

__all__ = [
    "MARGIN",
    "METADATA_KEY",
    "PREPROCESSED",
    "PRESETS",
    "WHITE",
    "Found",
    "InputRange",
    "Preprocess",
    "Wanted",
    "apply",
    "check_levels",
    "check_whole",
    "find_preprocess",
    "given_preprocess",
    "how_taken",
    "in_words",
    "likely_ranges",
    "make_preprocess",
    "not_recorded",
    "preset",
    "range_of",
    "read_picture",
    "recipe",
    "to_input",
    "trials",
]
