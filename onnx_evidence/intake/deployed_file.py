"""The file as deployed: its own bytes, its weights where they are, run whole on pictures brought to its own input."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnx_evidence.errors import ModelError
from onnx_evidence.intake.entry import Entry
from onnx_evidence.sessions import Device, Session
from onnx_evidence.types import AnyArray, Features


class DeployedFile:
    """One tensor of the file, as plain ONNX Runtime computes it.

    It takes ``rows`` pictures at once, by default any number. Nothing of the file is changed: it is opened from its
    bytes, with the runtime's own optimisations, and only asked for one of its ``outputs``. A tensor that is none is
    made a further output, which may keep the runtime from fusing operators around it, and is as near as one gets.
    Weights that the file refers to are found in the folder of ``path``. `ModelError` if ONNX Runtime cannot run the
    file, `DeviceError` if not on the device.
    """

    def __init__(
        self,
        path: Path,
        data: bytes,
        entry: Entry,
        tensor: str,
        device: Device,
        *,
        rows: int | None = None,
        outputs: frozenset[str],
    ) -> None:
        self.path, self.tensor, self._entry = path, tensor, entry
        try:
            bytes_ = data if tensor in outputs else _with_output(data, tensor)
            self._session = Session(bytes_, device, batch=rows, folder=path.parent, outputs=[tensor], part="file")
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def run(self, pictures: Features) -> AnyArray:
        """The tensor (N, ...), in its own type, for canonical pictures (N, channels, H, W).

        `ModelError` if the run fails.
        """
        try:
            return self._session.run(as_file_takes_it(pictures, self._entry))
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error


def _with_output(data: bytes, tensor: str) -> bytes:
    """The file with a further output."""
    proto = onnx.load_model_from_string(data)
    # Without a type: ONNX Runtime infers it.
    proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return bytes(proto.SerializeToString())


def as_file_takes_it(pictures: Features, entry: Entry) -> AnyArray:
    """Canonical pictures (N, channels, H, W) in the layout and type of the file's input, rounded to nearest."""
    ordered = pictures.transpose(0, 2, 3, 1) if entry.layout == "NHWC" else pictures
    return np.ascontiguousarray(_in_type(ordered, entry))


def representable(pictures: Features, entry: Entry) -> Features:
    """Canonical pictures whose values are those that the file gets: rounded to its input's type, and float32 again.

    Parameters
    ----------
    pictures : ndarray of float32
        As preprocessing makes them.
    entry : Entry
        The file's image input.

    Returns
    -------
    ndarray of float32, of the same shape
    """
    return np.asarray(_in_type(pictures, entry), np.float32)


def _in_type(pictures: Features, entry: Entry) -> AnyArray:
    whole = pictures if entry.levels is None else np.clip(np.rint(pictures), *entry.levels)
    return whole.astype(helper.tensor_dtype_to_np_dtype(entry.elem_type))
