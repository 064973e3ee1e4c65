"""A method is an object in one file, and a setting is said once: on the command line, in Python, and in receipts."""

import inspect
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import click
import cv2
import numpy as np
import pytest

import onnx_evidence
from onnx_evidence import Explainer, SettingError
from onnx_evidence.batch import fingerprint
from onnx_evidence.cli.batch import explain, verify
from onnx_evidence.cli.commands import background, evaluate, sanity
from onnx_evidence.cli.options_methods import setting_option
from onnx_evidence.methods import settings as module
from onnx_evidence.methods import settings_of_receipt
from onnx_evidence.methods.settings import OPTIONS, Keywords, Settings
from onnx_evidence.methods.table import METHODS

# A stranger's method: evidence of every cell by the mean of what it holds, which is none of the model's business.
TOY = '''
"""The mean of the features over channels, times a number of one's own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.methods.engine import CutMap, Engine
from onnx_evidence.methods.method import Method


@dataclass(frozen=True)
class ToyEngine(Engine):
    draws: int
    shared: ClassVar[bool] = True
    copies: ClassVar[int] = 1

    def explain(self, view, questions, progress):
        cells = view.features.mean(axis=0, dtype=np.float64) * self.draws
        values = self.field.to_input(cells)
        progress(1)
        return [CutMap(cells, values, np.full(values.shape, np.nan), None, 0.0, 0.0) for _ in questions]

    def describe(self):
        return {"samples": self.draws}

    def summary(self):
        return f"{self.draws} of nothing"


class ToyMethod(Method):
    def refuse(self, settings):
        if settings.samples == 13:
            raise SettingError("samples 13: brings bad luck: take 12")

    def prepare(self, site):
        return ToyEngine(site.cut, site.deployed.certify, site.field(), site.settings, site.samples)


TOY = ToyMethod("toy", "mean of features", "last", "bananas", samples=3, uses=frozenset({"samples"}))
'''
RUN = """
import json, sys
import numpy as np
import onnx_evidence
from onnx_evidence import Explainer, SettingError
from onnx_evidence.cli import main

model, picture, out = sys.argv[1:]
said = {"package": onnx_evidence.__file__}
explainer = Explainer(model, method="toy", device="cpu")
explanation = explainer.explain(picture, target=1)
features = explainer.deployed.head(explainer.engines[0].cut)(explainer.deployed.prepare(picture)[1][None])[0]
said["right"] = bool(np.allclose(explanation.grids[0], 3 * features.mean(axis=0), rtol=1e-5))
said["unit"] = explanation.unit
for options in ({"samples": 13}, {"window": 3}, {"method": "bananas"}):
    try:
        Explainer(model, **{"method": "toy", "device": "cpu", **options})
    except SettingError as error:
        said[next(iter(options))] = str(error)
options = ["--method", "toy", "--samples", "5", "--target", "1"]
main(["explain", model, picture, "-o", out, *options], standalone_mode=False)
main(["verify", out], standalone_mode=False)
print(json.dumps(said))
"""


def test_a_strangers_method_is_one_file_and_one_line_of_the_table(tiny_model, tmp_path):
    """In a copy of the package, with nothing else changed: through Python, the command line and `verify`."""
    source = Path(onnx_evidence.__file__).parent
    copy = shutil.copytree(source, tmp_path / "with" / "onnx_evidence", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "methods" / "toy.py").write_text(TOY)
    table = (copy / "methods" / "table.py").read_text()
    lines = table.replace("    )\n}\n", "        toy.TOY,\n    )\n}\n")
    assert len(lines.splitlines()) == len(table.splitlines()) + 1
    (copy / "methods" / "table.py").write_text(lines.replace(" import inside, ", " import toy, inside, "))
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.random.default_rng(2).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    code = ["-W", "error", "-c", RUN, str(tiny_model), str(picture), str(tmp_path / "out")]
    run = subprocess.run([sys.executable, *code], cwd=tmp_path / "with", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *shown, said = run.stdout.splitlines()
    assert json.loads(said) == {
        "package": str(copy / "__init__.py"),
        "right": True,
        "unit": "bananas",
        "samples": "samples 13: brings bad luck: take 12",
        "window": "method 'toy' has no use for --window: drop it, or take one of the methods window, occlusion, pda",
        "method": f"method 'bananas' is unknown: take one of auto, {', '.join(METHODS)}, toy",
    }
    assert "method: toy (asked for)" in shown
    assert any("5 of nothing" in line for line in shown)
    assert "verdict: identical" in shown[-1]
    (entry,) = (json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert (entry["settings"]["method"], entry["unit"], entry["cuts"][0]["samples"]) == ("toy", "bananas", 5)


def test_every_method_is_named_once_and_says_what_it_is():
    assert [row.name for row in METHODS.values()] == list(METHODS)
    assert len({row.summary for row in METHODS.values()}) == len(METHODS)
    for row in METHODS.values():
        assert row.samples >= 1
        assert row.replacement(Settings(method=row.name)), row.name
        assert not row.accounts or row.adds_up, row.name


# Settings once


def parameters(command: click.Command) -> dict[str, click.Option]:
    return {each.name: each for each in command.params if isinstance(each, click.Option)}


@pytest.mark.parametrize("command", [explain, sanity], ids=lambda each: each.name)
def test_every_setting_is_an_option_with_the_same_default(command):
    there = parameters(command)
    for name, option in OPTIONS.items():
        assert there[name].opts == [f"--{option.flag}"]
        default = there[name].get_default(click.Context(command))
        assert (tuple(default) if isinstance(default, list) else default) == getattr(Settings, name), name
        assert option.help in there[name].help
    assert {each.flag for each in OPTIONS.values()} >= {"layer", "batch-size", "quality", "window"}


def test_every_setting_but_the_layers_is_a_keyword():
    keywords = get_type_hints(Keywords)
    assert keywords == {name: hint for name, hint in get_type_hints(Settings).items() if name != "layers"}
    signature = inspect.signature(Explainer)
    assert signature.parameters["layer"].default == Settings.layers[0]
    assert not set(keywords) & set(signature.parameters)
    for name in keywords:
        assert name in inspect.getdoc(Explainer), name


# By the settings of the test, computed by the version before settings were said once.
DIGEST = "3f18f9d46bbba9ef896d301b47638ab70309a2f53dbdd84f0bc2c7e2361aad73"
# Beyond, at and inside every bound, and words that are no choice.
TRIED: dict[str, list[Any]] = {
    **{
        name: [-1, 0, 1, 2, 3, 10**9]
        for name in ("window", "stride", "samples", "steps", "most_steps", "batch_size", "seed")
    },
    "completeness": [-0.5, 0.0, 1e-9, 0.05, 0.999, 1.0, 1.5],
    "tolerance": [-1.0, 0.0, 1e-9, 0.1, 5.0],
    "statistic": ["position", "channel", "conditional", "magic", ""],
    "score": ["log-odds", "logit", "magic"],
    "project": ["field", "backward", "magic"],
    "quality": ["fast", "default", "best", "magic"],
    "combine": ["auto", "agreement", "mean", "relevance", "magic"],
    "rules": ["conservative", "attnlrp", "gradient"],
}


def taken(check: Callable[[], object]) -> bool:
    try:
        check()
    except (SettingError, click.BadParameter):
        return False
    return True


def disagreements(command: click.Command) -> list[tuple[str, Any]]:
    """Values that the command line takes and Python does not, or the other way round."""
    found = []
    for name, values in TRIED.items():
        option, kind = OPTIONS[name], parameters(command)[name].type
        for value in values:
            one = taken(lambda kind=kind, value=value: kind.convert(str(value), None, None))
            other = taken(lambda option=option, name=name, value=value: option.check(name, value))
            found += [(name, value)] * (one != other)
    return found


@pytest.mark.parametrize("command", [explain, sanity], ids=lambda each: each.name)
def test_the_command_line_takes_what_python_takes(command):
    assert disagreements(command) == []
    assert set(OPTIONS) - set(TRIED) == {"method", "layers", "background", "laplace"}  # names, paths, and the next test
    for name, values in TRIED.items():  # the control: some are taken, and some are not
        accepted = [taken(lambda name=name, value=value: OPTIONS[name].check(name, value)) for value in values]
        assert len(set(accepted)) == 2, name


@pytest.mark.parametrize(
    ("name", "value"), [("completeness", math.nan), ("tolerance", math.nan), ("tolerance", math.inf)]
)
def test_what_no_range_of_click_leaves_out_is_refused_by_the_settings(name, value):
    assert not taken(lambda: OPTIONS[name].check(name, value))


def test_control_another_range_is_seen(monkeypatch):
    monkeypatch.setitem(module.OPTIONS, "steps", replace(OPTIONS["steps"], least=3))
    assert disagreements(explain) == [("steps", 2)]


def test_two_numbers_are_read_and_held_to_their_range():
    option = parameters(explain)["laplace"]
    assert option.type.convert("100000,1000", None, None) == (100000, 1000)
    for wrong in ("7", "a,b", "1,2,3"):
        with pytest.raises(click.BadParameter, match="two whole numbers"):
            option.type.convert(wrong, None, None)
    OPTIONS["laplace"].check("laplace", (1, 1))
    with pytest.raises(SettingError, match="laplace 0,5: N and K are at least 1"):
        OPTIONS["laplace"].check("laplace", (0, 5))


def test_an_option_means_the_same_wherever_it_stands():
    """Range and name are those of the setting; the help may say what it is for there."""
    for command, name in ((background, "window"), (background, "layers"), (evaluate, "seed"), (verify, "batch_size")):
        here, there = parameters(command)[name], parameters(explain)[name]
        assert (here.opts, repr(here.type), here.multiple) == (there.opts, repr(there.type), there.multiple)
    assert parameters(verify)["batch_size"].get_default(click.Context(verify)) is None


def test_options_are_listed_in_order():
    listed = [each.name for each in explain.params if each.name in OPTIONS]
    assert (
        listed
        == (
            "method quality layers window stride samples background statistic score steps completeness "
            "most_steps project tolerance laplace combine rules batch_size seed"
        ).split()
    )


def test_a_command_says_otherwise_of_a_setting_what_it_likes():
    @setting_option("steps", default=7, help="Of the stairs.")
    @click.command()
    def climb(steps): ...

    (option,) = climb.params
    assert (option.default, option.help, option.type.min) == (7, "Of the stairs.", OPTIONS["steps"].least)


def test_finished_work_is_known_by_what_it_was_known_by():
    """By settings that decide a map: a run that an earlier version began goes on with this one."""
    settings = Settings(
        method="window",
        layers=("a", "b"),
        window=3,
        stride=2,
        samples=40,
        background="b.npz",
        laplace=(100000, 1000),
        tolerance=0.1,
        batch_size=7,
        seed=5,
    )
    entry = {
        "schema": 3,
        "hashes": {"model": "m" * 64, "labels": None, "background": "b" * 64},
        "output": "logits",
        "classes": "exclusive",
        "cuts": [{"name": "a"}, {"name": "b"}],
        "settings": {**asdict(settings), "preprocess": {"size": [224, 224]}},
    }
    assert fingerprint.digest_of_entry(entry) == DIGEST
    for name in set(OPTIONS) - {"quality", "layers", "background", "batch_size", "combine", "rules", "most_steps"}:
        other = {**entry, "settings": {**entry["settings"], name: "another"}}
        assert fingerprint.digest_of_entry(other) != DIGEST, name
    for name in ("quality", "layers", "background", "batch_size", "combine", "rules", "most_steps"):
        other = {**entry, "settings": {**entry["settings"], name: "another"}}
        assert fingerprint.digest_of_entry(other) == DIGEST, name
    # Receipts list settings in this order; new ones go to the end.
    assert (
        list(asdict(settings))
        == (
            "method layers window stride samples background statistic score steps completeness project batch_size seed "
            "laplace tolerance quality combine rules most_steps"
        ).split()
    )
    paths = {**entry, "settings": {**entry["settings"], "method": "integrated"}}
    mean = {**paths, "settings": {**paths["settings"], "combine": "mean"}}
    before = {**paths, "settings": {name: value for name, value in mean["settings"].items() if name != "combine"}}
    assert fingerprint.digest_of_entry(mean) == fingerprint.digest_of_entry(before)
    assert fingerprint.digest_of_entry(paths) != fingerprint.digest_of_entry(mean)
    # A path had a largest number of steps before it could be set.
    for most, same in ((129, True), (9, False)):
        bounded = {**paths, "settings": {**paths["settings"], "most_steps": most}}
        older = {name: value for name, value in paths["settings"].items() if name != "most_steps"}
        unsaid = {**paths, "settings": older}
        assert (fingerprint.digest_of_entry(bounded) == fingerprint.digest_of_entry(unsaid)) == same
    assert settings_of_receipt("integrated", {})["most_steps"] == 129
    # Of methods that combine nothing receipts have the former default.
    former = {**entry, "settings": {**entry["settings"], "combine": "agreement"}}
    assert fingerprint.digest_of_entry(former) == DIGEST
    assert "combine" not in settings_of_receipt("window", {"combine": "agreement"})
    assert settings_of_receipt("integrated", {"combine": "agreement"})["combine"] == "agreement"
    assert settings_of_receipt("integrated", {})["combine"] == "mean"
    # Nor does a window know steps, whichever their default was.
    for other, same in ((entry, True), (paths, False)):
        former = {**other, "settings": {**other["settings"], "steps": 9}}
        assert (fingerprint.digest_of_entry(former) == fingerprint.digest_of_entry(other)) == same
