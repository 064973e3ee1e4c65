"""The explanation that a file gives of itself: what 'export' compiled into it is run, and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.deployed import DeployedModel, Inside
from onnx_evidence.errors import CutError, SettingError, TargetError
from onnx_evidence.evidence import Budget
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import BITS_PER_PIXEL, Method
from onnx_evidence.methods.settings import Settings
from onnx_evidence.methods.site import Site

# As `export` records them: the class that wins, one that is given with the picture, that which comes next.
_WINNER, _INPUT, _RUNNER_UP = "winner", "input", "runner-up"
# Share of the bits that the file and what is in it may differ by.
_CLOSE = 1e-3


@dataclass(frozen=True)
class InsideEngine(Engine):
    """What the file gives, at its input.

    Attributes
    ----------
    inside : Inside
        The exported graph.
    """

    inside: Inside

    @property
    def copies(self) -> int:
        """One run gives all."""
        return 1

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One run per question; see `methods.engine.Engine`."""
        maps = []
        for question in questions:
            place = self._place(view, question)
            evidence, budget = self.inside.run(view.inputs, question.target)
            values, (first, last, supporting, opposing, _) = evidence[place], budget[place]
            bits = float(view.score(question, self._settings["score"]).bits(view.logits[None])[0])
            rounding = float(first) - bits
            if not abs(rounding) <= _CLOSE * max(abs(bits), 1.0):
                raise CutError(
                    f"the file explains {first:.6g} bits and says {bits:.6g}: it is damaged, or computes otherwise "
                    "here: see 'onnx-evidence verify', or take --method integrated"
                )
            told = Budget(first, last, supporting, opposing, self._settings["steps"], float(values.sum()))
            none = np.full(values.shape, np.nan)
            maps.append(CutMap(values, values, none, told, certificate=0.0, rounding=rounding))
            progress(1)
        return maps

    @property
    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.inside.record["settings"]
        return found

    def _place(self, view: View, question: Question) -> int:
        """Which of the file's answers is that to a question; `TargetError` where none is."""
        record, order = self.inside.record, np.argsort(-view.logits, kind="stable")
        winner = int(order[0])
        likeliest = next(int(number) for number in order if number != question.target)
        rival = likeliest if record["versus"] == _RUNNER_UP else record["versus"]
        meant = {_WINNER: winner, _INPUT: question.target}
        answered = [meant.get(each, each) for each in record["targets"]]
        if question.target not in answered or question.versus != rival:
            named = ", ".join(record["target_labels"])
            held = "" if rival is None else f" rather than {record['versus_label']} (--versus {rival})"
            raise TargetError(
                f"class {question.target}: the file itself explains {named}{held} alone: ask for that, or take "
                "--method integrated, which explains the model in it"
            )
        return answered.index(question.target)

    def describe(self) -> dict[str, Any]:
        """How the file was exported."""
        names = ("version", "settings", "cuts", "background", "versus")
        return {"exported": {name: self.inside.record[name] for name in names}}

    def summary(self) -> str:
        """Which version exported it."""
        return f"exported by {self.inside.record['version']}"


@dataclass(frozen=True)
class InsideMethod(Method):
    """What is asked of files that explain themselves."""

    def prepare(self, site: Site) -> InsideEngine:
        """Open the exported graph."""
        deployed = site.deployed
        _check(deployed)
        return InsideEngine(site.cut, deployed.certify, site.field(), site.settings, deployed.inside())

    def replacement(self, settings: Settings) -> str:
        """That is recorded in the file."""
        return "what the file was exported with"


def _check(deployed: DeployedModel) -> None:
    path, record = deployed.model.path, deployed.model.explains
    if record is None:
        raise SettingError(
            f"method 'inside': {path} does not explain itself: take another method, or a file that 'onnx-evidence "
            "export' wrote"
        )
    if record["unit"] != BITS_PER_PIXEL:
        raise SettingError(
            f"method 'inside': {path} gives {record['unit']}, which are no picture: take --method integrated"
        )
    if record["classes"] != deployed.class_kind.name:
        raise SettingError(
            f"method 'inside': {path} explains classes that are {record['classes']}: drop --classes, or take --method "
            "integrated"
        )


INSIDE = InsideMethod("inside", "what a file that was exported with its explanation says", "input", accounts=True)
