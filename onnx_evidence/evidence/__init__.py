"""The mathematics: evidence in bits, what stands in for features, paths, windows, masks, errors; numpy alone.

Imported by: batch, cli, cuts, deployed, evaluation, explainer, export, intake, methods, preprocessing, results.
"""

from onnx_evidence.evidence import attribution, masks
from onnx_evidence.evidence.agreement import CONTRADICTED, STANDS_OUT, agreement, held_against
from onnx_evidence.evidence.background import Background, BackgroundFitter, default_patch
from onnx_evidence.evidence.class_kind import CLASS_KINDS, EXCLUSIVE, INDEPENDENT, ClassKind
from onnx_evidence.evidence.difference import Draws, WindowEvidence, check_samples, remove_windows, window_evidence
from onnx_evidence.evidence.field import EVEN, MEASURED, NOMINAL, OPEN, AxisField, CellField, input_field
from onnx_evidence.evidence.intervals import CONFIDENCE, FIRST_LOOK, combined_freedom, half_width
from onnx_evidence.evidence.masks import MakeMasks, Parts
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.order import FRONTS, LEVELS, ROUNDS, Ascend, LevelSets, Reveal, level_sets, ranks, refine
from onnx_evidence.evidence.path import (
    FIRST_STEPS,
    MOST_STEPS,
    Budget,
    PathEvidence,
    average,
    budget_of,
    heard,
    integrate,
    integrate_all,
    mean_budget,
)
from onnx_evidence.evidence.resample import interpolation
from onnx_evidence.evidence.rng import generator, key_of, natural_noise
from onnx_evidence.evidence.samplers import ConditionalSampler, Key, MeanSampler, Sampler, ZeroSampler
from onnx_evidence.evidence.score import SCORES, Score
from onnx_evidence.evidence.sequential import MOST_SAMPLES, Asked, Sampled, sample_windows
from onnx_evidence.evidence.windows import Windows, default_size

__all__ = [
    "CLASS_KINDS",
    "CONFIDENCE",
    "CONTRADICTED",
    "EVEN",
    "EXCLUSIVE",
    "FIRST_LOOK",
    "FIRST_STEPS",
    "FRONTS",
    "INDEPENDENT",
    "LEVELS",
    "LN2",
    "MEASURED",
    "MOST_SAMPLES",
    "MOST_STEPS",
    "NOMINAL",
    "OPEN",
    "ROUNDS",
    "SCORES",
    "STANDS_OUT",
    "Ascend",
    "Asked",
    "AxisField",
    "Background",
    "BackgroundFitter",
    "Budget",
    "CellField",
    "ClassKind",
    "ConditionalSampler",
    "Draws",
    "Key",
    "LevelSets",
    "MakeMasks",
    "MeanSampler",
    "Parts",
    "PathEvidence",
    "Reveal",
    "Sampled",
    "Sampler",
    "Score",
    "WindowEvidence",
    "Windows",
    "ZeroSampler",
    "agreement",
    "attribution",
    "average",
    "budget_of",
    "check_samples",
    "combined_freedom",
    "default_patch",
    "default_size",
    "generator",
    "half_width",
    "heard",
    "held_against",
    "input_field",
    "integrate",
    "integrate_all",
    "interpolation",
    "key_of",
    "level_sets",
    "masks",
    "mean_budget",
    "natural_noise",
    "ranks",
    "refine",
    "remove_windows",
    "sample_windows",
    "window_evidence",
]
