"""One run of a file on pictures that are none, to see what a tensor holds."""

from pathlib import Path

import numpy as np
import onnx

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import with_outputs
from onnx_evidence.intake.entry import Entry
from onnx_evidence.preprocessing import MARGIN
from onnx_evidence.sessions import Session, settle_device
from onnx_evidence.types import AnyArray

# Pictures of every range that the input may have.
_PICTURES = 2


def probe(proto: onnx.ModelProto, entry: Entry, batch: int | None, name: str, folder: Path) -> AnyArray:
    """Values (N, ...) of a tensor for a few inputs of noise: one row or more, all of them finite.

    Channels, height and width of the input are settled; weights that the graph only refers to lie in ``folder``.
    `ModelError` if ONNX Runtime cannot run the model, or it gives no finite numbers for any of the inputs.
    """
    with with_outputs(proto, [name]):
        session = Session(proto, settle_device("cpu"), batch=batch, folder=folder)
    for margin in (0.0, MARGIN):
        pictures = [
            each.noise(entry.shape[1:], number, margin=margin) for each in entry.ranges for number in range(_PICTURES)
        ]
        found = session.run(np.stack(pictures))
        finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        if finite.any():
            return np.asarray(found[finite])
    raise ModelError(
        f"tensor {name!r} holds no finite numbers for pictures of noise, so what it means cannot be told: pass "
        "--preprocess"
    )
