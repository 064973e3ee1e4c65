"""Where the preprocessing is found: given, recorded in the file, or beside it; and that sources agree.

What is given holds. Of what is recorded, in the file's metadata (`METADATA_KEY`), in ``MODEL.toml``, in Hugging Face's
``preprocessor_config.json`` and in timm's ``config.json``, the first is named as the source, and all must say the same:
which of two contradicting ones the model was trained with, no program can know. Files are looked for in the model's
folder and, where that is called ``onnx``, as Optimum's is, in the one above.
"""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.files import parse_json, parse_toml, read_text
from onnx_evidence.preprocessing import huggingface, timm
from onnx_evidence.preprocessing.contract import Preprocess, make_preprocess
from onnx_evidence.preprocessing.presets import PREPROCESSED, PRESETS, Wanted, preset

METADATA_KEY = "onnx_evidence.preprocess"
# Class names in the metadata that Ultralytics' exporter writes: {0: 'tench', ...}.
_NAMES_KEY = "names"
_CONFIG = "config.json"
_OPTIMUM = "onnx"
# What a `config.json` calls the kind of classes.
_CLASSES = {"multi_label_classification": "independent", "single_label_classification": "exclusive"}


@dataclass(frozen=True)
class Found:
    """What was found, and where.

    Attributes
    ----------
    preprocess : Preprocess or None
        None where nothing is known.
    source : str or None
        Where it comes from, in words.
    labels : tuple of str or None
        Class names from beside the model; those of the metadata's own key are not looked at.
    labels_source : str or None
        Where they come from, in words.
    classes : {'exclusive', 'independent'} or None
        What ``problem_type`` says of them; None where it says nothing.
    """

    preprocess: Preprocess | None
    source: str | None = None
    labels: tuple[str, ...] | None = None
    labels_source: str | None = None
    classes: str | None = None


def find_preprocess(
    given: str | Path | Preprocess | None, metadata: dict[str, str], path: Path, wanted: Wanted
) -> Found:
    """Find the preprocessing of a model, and what lies beside it of its classes.

    Parameters
    ----------
    given : str or Path or Preprocess, optional
        A preset's name, a TOML or JSON file, a folder, or the settings themselves.
    metadata : dict
        Of the model's file.
    path : Path
        The model's file, for what lies beside it and for messages.
    wanted : Wanted
        What its input takes.

    Returns
    -------
    Found
        Without anything recorded an input of whole numbers is taken to do its preprocessing inside: preset 'none'.

    Raises
    ------
    DataError
        If something given or recorded cannot be used, or two sources contradict each other.
    """
    beside = _Beside.of(_folders(path), path)
    labels = _labels(metadata, beside, path)
    if given is not None:
        if isinstance(given, str | Path) and Path(given).is_dir():
            # A folder that is given is one to look into for everything.
            beside = _Beside.of([Path(given)], None)
            labels = _labels({}, beside, path) if beside.labels else labels
        return Found(*_given(given, beside, path, wanted), *labels, beside.classes)
    recorded = list(_recorded(metadata, beside, path, wanted))
    for what, source in recorded[1:]:
        if what != recorded[0][0]:
            raise DataError(
                f"{path}: {recorded[0][1]} and {source} contradict each other ({_difference(recorded[0][0], what)}): "
                "pass --preprocess to say which holds"
            )
    if recorded:
        return Found(*recorded[0], *labels, beside.classes)
    if wanted.integer and None not in (wanted.height, wanted.width):
        why = "preset 'none': nothing is recorded and the input takes whole numbers, so that the rest is inside"
        return Found(preset("none", wanted, str(path)), why, *labels, beside.classes)
    return Found(None, None, *labels, beside.classes)


def not_recorded(path: Path) -> DataError:
    """What to raise where the preprocessing is needed and nothing was found.

    Parameters
    ----------
    path : Path
        The model's file.

    Returns
    -------
    DataError
        With the ways to say what it is.
    """
    return DataError(
        f"{path}: the model does not record its preprocessing and it cannot be guessed; pass --preprocess FILE.toml "
        "(template: 'onnx-evidence preprocess MODEL --template'), or --preprocess with what it was trained with: "
        f"{', '.join(PRESETS)}"
    )


def _given(given: str | Path | Preprocess, beside: "_Beside", path: Path, wanted: Wanted) -> tuple[Preprocess, str]:
    if isinstance(given, Preprocess):
        return given, "given"
    if str(given) in (*PRESETS, PREPROCESSED):
        name = str(given)
        return preset(name, wanted, str(path)), f"preset {name!r}" if name in PRESETS else "the input itself is given"
    place = Path(given)
    if place.is_dir():
        recorded = list(beside.preprocess(wanted))
        if not recorded:
            raise DataError(f"{place}: this folder has neither {huggingface.FILE} nor timm's {_CONFIG}")
        return recorded[0]
    if not place.suffix and not place.exists():
        raise DataError(
            f"preprocessing {str(given)!r} is neither a preset ({', '.join(PRESETS)}) nor a file NAME.toml or NAME.json"
        )
    return read_preprocess(place, wanted), str(place)


def read_preprocess(path: Path, wanted: Wanted | None = None) -> Preprocess:
    """Read a file in UTF-8: TOML; or JSON of Hugging Face, of timm, or with the keys of the TOML."""
    if path.suffix.lower() != ".json":
        return make_preprocess(_read_toml(path), str(path))
    values = _read_json(path)
    if huggingface.is_processor(values):
        return huggingface.from_huggingface(values, str(path))
    if timm.is_timm(values):
        return timm.from_timm(values, wanted or Wanted(), str(path))
    return make_preprocess(values, str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the preprocessing: {one_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the preprocessing: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: cannot read the preprocessing: it is no object of keys and values")
    return values


def _folders(path: Path) -> list[Path]:
    folder = Path(os.path.realpath(path)).parent
    return [folder, folder.parent] if folder.name == _OPTIMUM else [folder]


@dataclass(frozen=True)
class _Beside:
    """The files that lie beside a model and are understood; others of the same name are passed over."""

    toml: Path | None
    processor: Path | None
    config: Path | None
    settings: dict[str, Any]

    @classmethod
    def of(cls, folders: list[Path], model: Path | None) -> "_Beside":
        def first(name: str) -> Path | None:
            return next((folder / name for folder in folders if (folder / name).is_file()), None)

        config = first(_CONFIG)
        settings: dict[str, Any] = {}
        if config is not None:
            try:
                settings = _read_json(config)
            except DataError:
                config = None  # many programs call their settings so
        return cls(
            toml=None if model is None else first(f"{model.stem}.toml"),
            processor=first(huggingface.FILE),
            config=config,
            settings=settings,
        )

    def preprocess(self, wanted: Wanted) -> Iterator[tuple[Preprocess, str]]:
        """What each says, and its name."""
        if self.toml is not None:
            yield read_preprocess(self.toml), str(self.toml)
        if self.processor is not None:
            yield read_preprocess(self.processor, wanted), str(self.processor)
        if self.config is not None and timm.is_timm(self.settings):
            yield timm.from_timm(self.settings, wanted, str(self.config)), str(self.config)

    @property
    def labels(self) -> tuple[tuple[str, ...], str] | None:
        if self.config is None:
            return None
        source = str(self.config)
        found: object = huggingface.labels_of(self.settings, source)
        if found is None and timm.is_timm(self.settings):
            found = timm.labels_of(self.settings)
        return None if found is None else (_names(found, source), source)

    @property
    def classes(self) -> str | None:
        return _CLASSES.get(str(self.settings.get("problem_type")))


def _recorded(
    metadata: dict[str, str], beside: _Beside, path: Path, wanted: Wanted
) -> Iterator[tuple[Preprocess, str]]:
    if METADATA_KEY in metadata:
        yield make_preprocess(metadata[METADATA_KEY], str(path)), f"the file's metadata ({METADATA_KEY})"
    yield from beside.preprocess(wanted)


def _difference(one: Preprocess, other: Preprocess) -> str:
    """The first key in which they differ, with both values."""
    pairs = zip(one.model_dump().items(), other.model_dump().values(), strict=True)
    return next(f"{key} {mine} and {theirs}" for (key, mine), theirs in pairs if mine != theirs)


def _labels(metadata: dict[str, str], beside: _Beside, path: Path) -> tuple[tuple[str, ...] | None, str | None]:
    if _NAMES_KEY in metadata:
        found = _parse_names(metadata[_NAMES_KEY], f"{path}: metadata {_NAMES_KEY!r}")
        if found is not None:
            return found, f"the file's metadata ({_NAMES_KEY})"
    return beside.labels or (None, None)


def _parse_names(text: str, source: str) -> tuple[str, ...] | None:
    """Names written as JSON or as a Python literal; None where the key holds something else."""
    try:
        values = parse_json(text)
    except ValueError:
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    if isinstance(values, dict):
        numbered = {str(key): name for key, name in values.items()}
        if set(numbered) != {str(number) for number in range(len(numbered))}:
            return None
        values = [numbered[str(number)] for number in range(len(numbered))]
    return _names(values, source) if isinstance(values, list) and values else None


def _names(values: object, source: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(name, str) for name in values):
        raise DataError(f"{source}: the class names are no list of texts: pass --labels FILE")
    return tuple(values)
