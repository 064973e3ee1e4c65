"""Fit backgrounds from the user's own pictures, one pass over them for all cuts."""

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, SettingError
from onnx_evidence.evidence import (
    Background,
    BackgroundFitter,
    ConditionalSampler,
    Windows,
    default_patch,
    default_size,
)
from onnx_evidence.methods.background_file import FORMAT, BackgroundFile, CutHeader, Header
from onnx_evidence.methods.removal import PDA
from onnx_evidence.types import Features

# Pictures and windows per picture on which clipping is judged.
_PROBED_PICTURES = 8
_PROBED_WINDOWS = 16
_PROBED_SAMPLES = 4


def fit_background(
    deployed: DeployedModel,
    layers: str | Sequence[str],
    images: Iterable[str | Path],
    *,
    window: int | None = None,
    patch: int | None = None,
) -> BackgroundFile:
    """Fit the conditional Gaussian of the features at some cuts.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    layers : str or sequence of str
        Names of cuts.
    images : iterable of Path
        Pictures of the kind that the model sees; 100 to 500 are enough. Read one by one.
    window : int, optional
        Side of the window to be drawn, for which the fit is judged; the cut's default otherwise.
    patch : int, optional
        Side of the patch; the window and its surroundings by default.

    Returns
    -------
    BackgroundFile

    Raises
    ------
    DataError
        If there are fewer than 10 pictures, one cannot be read, or the context predicts held-out pictures
        worse than their mean does.
    CutError
        If a name is no cut of the model.
    SettingError
        If no cut is named, or a side is no whole number of at least 1.
    """
    layers = (layers,) if isinstance(layers, str) else layers
    _refuse(layers, images, window=window, patch=patch)
    fitters = [_CutFitter(deployed, name, window, patch) for name in layers]
    heads = deployed.heads([fitter.cut for fitter in fitters])
    pictures = 0
    for pictures, path in enumerate(images, start=1):  # noqa: B007 - the count is needed after the loop
        _, inputs, _ = deployed.prepare(path)
        for fitter, features in zip(fitters, heads.look(inputs), strict=True):
            fitter.add(features)
    results = [fitter.finish() for fitter in fitters]
    header = Header(
        format=FORMAT,
        model_sha256=deployed.model.sha256,
        preprocess=deployed.preprocess.model_dump_json(),
        pictures=pictures,
        cuts=tuple(cut for cut, _ in results),
    )
    return BackgroundFile(header, tuple(background for _, background in results))


def _refuse(layers: Sequence[str], images: object, **sides: object) -> None:
    if not layers:
        raise SettingError("no cut to fit a background for: name at least one; 'onnx-evidence inspect' lists them")
    for name, side in sides.items():
        whole = isinstance(side, Integral) and not isinstance(side, bool) and int(side) > 0
        if side is not None and not whole:
            raise SettingError(f"{name} {side!r} is no side: give a whole number of at least 1")
    if isinstance(images, str | os.PathLike) or not isinstance(images, Iterable):
        raise DataError(f"images {str(images)!r}: give the pictures themselves, such as sorted(Path(folder).iterdir())")


class _CutFitter:
    def __init__(self, deployed: DeployedModel, name: str, window: int | None, patch: int | None) -> None:
        self.cut = deployed.graph.find(name)
        cut = self.cut
        at_input = name == deployed.model.input_name
        # At the input the customary window is that of prediction difference analysis.
        self.window = min(window or (PDA.window if at_input else None) or default_size(cut.grid), *cut.grid)
        self.fitter = BackgroundFitter(cut.cell_shape, patch or default_patch(self.window, cut.grid))
        if self.window > self.fitter.patch:
            raise DataError(f"patch {self.fitter.patch} is smaller than the window of {self.window} cells")
        self.probes: list[Features] = []

    def add(self, seen: Features) -> None:
        features = seen[: self.cut.cell_shape[0]]
        self.fitter.add(features.astype(np.float64))
        if len(self.probes) < _PROBED_PICTURES:
            self.probes.append(features)

    def finish(self) -> tuple[CutHeader, Background]:
        background = self.fitter.finish()
        r2 = self.fitter.held_out_r2(self.window)
        if not r2 > 0:
            raise DataError(
                f"layer {self.cut.name!r}: the surroundings predict held-out pictures no better than their mean "
                f"(R2 {r2:.2f}): give more pictures, or take --background mean"
            )
        cut = self.cut
        header = CutHeader(
            name=cut.name,
            shape=cut.cell_shape,
            patch=background.patch,
            window=self.window,
            r2=round(r2, 4),
            clipped=round(clipped_share(background, self.probes, self.window), 5),
        )
        return header, background


def clipped_share(background: Background, pictures: Sequence[Features], window: int) -> float:
    """Share of drawn values, 0..1, outside the range seen in the fit, over a few windows of features (C, A, B)."""
    sampler = ConditionalSampler(background)
    low, high = (bound[None, :, None, None] for bound in (background.low, background.high))
    outside = []
    for index, features in enumerate(pictures):
        windows = Windows.place((features.shape[1], features.shape[2]), window)
        sites = list(windows.sites())
        for row, col in sites[:: max(1, len(sites) // _PROBED_WINDOWS)]:
            drawn = sampler.draw_unclipped(features, (row, col), windows.size, _PROBED_SAMPLES, (0, index))
            outside.append(((drawn < low) | (drawn > high)).mean())
    return float(np.mean(outside))
