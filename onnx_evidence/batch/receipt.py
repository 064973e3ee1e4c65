"""What a manifest line holds, as a schema: docs/manifest.schema.json is made from here.

``python -m onnx_evidence.batch.receipt`` prints it.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_evidence.batch import fingerprint
from onnx_evidence.errors import ModelError

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Relative, inside the output folder: one folder and a file, neither hidden.
Inside = Annotated[str, Field(pattern=r"^[^/.][^/]*/[^/.][^/]*$")]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BudgetPart(_Part):
    """What the cells of a map add up to, in bits."""

    with_bits: Finite = Field(description="The score with all features.")
    without_bits: Finite = Field(description="The score with all features removed.")
    for_bits: Finite = Field(description="The sum of the positive cells.")
    against_bits: Finite = Field(description="The sum of the negative cells.")
    gap_bits: Finite = Field(description="What the cells miss of the difference.")
    gap_share: Finite
    pixels_bits: Finite = Field(description="What reached the pixels.")
    steps: Count = Field(description="Gradients taken.")


class ExtremePart(_Part):
    """The strongest evidence on one side."""

    bits: Finite
    stderr: Finite | None = Field(description="null where nothing was sampled.")
    interval: Annotated[tuple[Finite, Finite], Field(strict=False)] | None = Field(description="95 %.")
    row: Count = Field(description="Pixel of the photograph.")
    col: Count


class TopPart(_Part):
    """One of the most probable classes."""

    number: Count = Field(alias="class")
    label: str
    probability: Annotated[float, Field(ge=0, le=1)]


class CutPart(BaseModel):
    """The method at a cut; methods add keys of their own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    grid: tuple[Count, Count]
    certificate: Annotated[float, Field(ge=0)] = Field(
        description="Largest difference of a logit between split and deployed file, as a share of the largest logit."
    )
    rounding_bits: Finite | None = Field(
        default=None,
        description="Log-odds of the question by the split less those by the deployed file: what rounding costs.",
    )
    resolution_pixels: Annotated[float, Field(ge=0)] = Field(
        description="Mean spread of the cells' receptive fields: finer detail is cosmetic."
    )
    field: Literal["measured", "nominal", "even", "exact"] | None = Field(
        default=None,
        description="How it is known where cells look: measured; by arithmetic on kernels and strides; not at all, so "
        "that cells are spaced evenly; by definition.",
    )
    field_reason: str | None = Field(default=None, description="Why it is not measured, or what was filled in.")
    silent: bool = Field(
        default=False,
        description="Whether the cells of this cut change no score here: it has no part in the map, unless all are so.",
    )
    budget: BudgetPart | None = None


class MachinePart(_Part):
    """What the map was computed on."""

    cpu: str
    threads: Annotated[int, Field(ge=1)]
    gpu: str | None
    cuda: str | None = Field(description="Version of the CUDA runtime.")
    driver: str | None = Field(description="CUDA version that the driver is made for.")


class HashesPart(_Part):
    """SHA-256 of everything that went in and came out."""

    model: Sha256
    labels: Sha256 | None = Field(description="Of the class names, one per line.")
    background: Sha256 | None = Field(description="Of the fitted background, or the pictures in its folder.")
    image: Sha256 = Field(description="Of the picture's file.")
    input: Sha256 = Field(description="Of the preprocessed tensor: float32, channels first, little endian.")
    map: Sha256
    figure: Sha256 | None


class PlacesPart(_Part):
    """Where what went in lay, seen from the folder of the results; absolute where that is on another drive."""

    image: str
    model: str
    background: str | None = Field(description="null where it is no file or folder.")
    labels: str | None = Field(default=None, description="Missing where no file of class names was given.")


class Receipt(_Part):
    """A manifest line: one map, how it was made, and from what."""

    version: Literal[3] = Field(alias="schema", description="Of these lines: batch.SCHEMA.")
    image: str = Field(description="The picture, as the user named it.")
    target: Count = Field(description="Class number.")
    label: str
    versus: Count | None
    versus_label: str | None
    probability: Annotated[float, Field(ge=0, le=1)] = Field(description="Of the target, by the deployed file.")
    log_odds_bits: Finite = Field(description="Of the target, by the deployed file.")
    unit: str
    budget: BudgetPart | None
    patch: tuple[Count, Count] = Field(strict=False)
    padding_bits: Finite | None = Field(description="On input pixels that show nothing of the photograph.")
    preprocess_source: str | None = Field(description="Where the preprocessing was found.")
    samples: str = Field(description="What was done with the picture's samples before they were resized.")
    output: str = Field(description="The output of the model that holds the class scores.")
    classes: Literal["exclusive", "independent"] = Field(
        description="Whether one class holds, or each label by itself."
    )
    map: Inside
    figure: Inside | None = Field(description="null where none was asked for.")
    strongest_for: ExtremePart
    strongest_against: ExtremePart
    model: str = Field(description="The .onnx file, as the user named it.")
    places: PlacesPart | None = Field(default=None, description="Missing in lines of earlier versions.")
    labels: str | None = Field(
        default=None, description="The file of class names that was given; missing in lines of earlier versions."
    )
    changes: list[str] = Field(
        default=[], description="What was done to take the file in; missing in lines of earlier versions."
    )
    proof: str | None = Field(
        default=None, description="How far that is from the file; null where nothing but bookkeeping was done."
    )
    settings: dict[str, Any] = Field(description="Every setting, the seed and the preprocessing among them.")
    method_reason: str
    background: str
    shallow: str | None = Field(
        default=None, description="What the cuts chosen miss of the model's depth; null where they miss nothing."
    )
    device: str = Field(
        min_length=1, description="'cpu', 'cuda', or execution providers with their options, the preferred first."
    )
    device_reason: str
    elsewhere: dict[str, dict[str, Count]] | None = Field(
        default=None,
        description="How many nodes of the file, by execution provider and operator, ran on another provider than the "
        "first; null on the CPU; missing in lines of earlier versions.",
    )
    machine: MachinePart
    versions: dict[str, str]
    hashes: HashesPart
    cuts: Annotated[list[CutPart], Field(min_length=1)]
    top: Annotated[list[TopPart], Field(min_length=2, max_length=5)] = Field(description="Most probable first.")
    configuration: Sha256 = Field(description="Fingerprint of everything that decides a map besides picture and class.")
    work: Sha256 = Field(description="Fingerprint of configuration, picture and class.")
    seconds: Annotated[float, Field(ge=0)] = Field(description="For all maps of the picture together.")
    previous: Sha256 | None = Field(description="The seal of the line before; null in the first.")
    seal: Sha256 = Field(description="SHA-256 of the bytes of this line before ', \"seal\"'.")


class Failure(_Part):
    """A line of the list of pictures that could not be explained."""

    version: Literal[3] = Field(alias="schema")
    image: str
    targets: list[str]
    versus: str | None
    picture: Sha256 | None
    kind: str
    reason: str
    previous: Sha256 | None
    seal: Sha256


def unlike(entry: dict[str, Any], kind: type[BaseModel] = Receipt) -> str:
    """The first thing, in words, that keeps parsed JSON from being a manifest line or a `Failure`; '' without one."""
    try:
        kind.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return ""


def unlike_receipt(entry: dict[str, Any]) -> str:
    """What keeps an object from being a receipt: its form, or fingerprints that are not those of what it says.

    The first thing, in words; '' where there is none.
    """
    if wrong := unlike(entry):
        return wrong
    if (entry["figure"] is None) != (entry["hashes"]["figure"] is None):
        return "a figure and its hash are there or not, both of them"
    try:
        configuration = fingerprint.digest_of_entry(entry)
    except (KeyError, TypeError, ModelError) as error:
        return f"settings are not complete: {error!r}"
    work = fingerprint.of_work(configuration, entry["hashes"]["image"], entry["target"], entry["versus"])
    if (entry["configuration"], entry["work"]) != (configuration, work):
        return "its fingerprints are not those of its settings"
    return ""


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest line."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Receipt.model_json_schema(by_alias=True)}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201
