"""The deployed file: load, check, and find out what it takes, what it gives and what it calls its classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from onnx_evidence.counting import MAX_WORK
from onnx_evidence.errors import ChangedError, ModelError
from onnx_evidence.evidence import ClassKind
from onnx_evidence.files import NOTHING_KEPT, Cache
from onnx_evidence.graphs import Net, TensorInfo
from onnx_evidence.intake.entry import Entry
from onnx_evidence.intake.exported import from_own_input
from onnx_evidence.intake.external import INLINE_LIMIT, Weights, check_unchanged, digest
from onnx_evidence.intake.labels import recorded_labels
from onnx_evidence.intake.outputs import settle_output
from onnx_evidence.intake.peek import peek
from onnx_evidence.intake.probe import probe
from onnx_evidence.intake.proof import Arithmetic, Proof
from onnx_evidence.intake.reach import where_picture_ends
from onnx_evidence.intake.read import metadata_of, read_file
from onnx_evidence.intake.take_in import take_in
from onnx_evidence.intake.winners import class_names
from onnx_evidence.preprocessing import Preprocess, find_preprocess
from onnx_evidence.types import AnyArray


@dataclass(frozen=True)
class Model:
    """A classifier read from an .onnx file.

    Attributes
    ----------
    path : Path
        The .onnx file.
    sha256 : str
        Of the file's bytes, and of the weights beside it.
    beside : sequence of Weights
        The files of weights beside it, as they were when they were read; see `check_unchanged`.
    data : bytes
        The file's bytes, as it is deployed.
    outputs : frozenset of str
        The file's own outputs.
    held : sequence of ndarray
        Large weights, which ``proto`` and whatever is made of it refer to.
    proto : onnx.ModelProto
        The canonical graph, see `intake.take_in`. Weights may be references to files beside the model, which
        `sessions.Session` finds in the ``folder`` of ``path``.
    tensors : dict of str to TensorInfo
        Types and shapes of all tensors, as far as they are known before the model runs.
    opset : int
        Version of the default operator set.
    input_name : str
        The image input; float32, NCHW.
    input_shape : (int, int, int)
        Channels, height, width.
    batch : int or None
        The batch size that the graph insists on; None where it is free, or could be made so.
    entry : Entry
        The image input as the file has it: layout, type, batch.
    rows : int or None
        How many pictures the file itself takes at once; None where it takes any number.
    arithmetic : Arithmetic
        What it computes with.
    own : frozenset of str
        The tensors of the file's own graph.
    changes : tuple of str
        What was done to the file's graph, in words; empty where it is the canonical one.
    proof : Proof or None
        How far the canonical graph is from the file, both run; None where it is the file's own.
    output_name : str
        The output that holds class scores.
    output_kind : {'logits', 'probabilities', 'log-probabilities'}
        What the output holds.
    source_name : str
        The tensor that the logits are made of, before anything was appended: the output, or what its softmax reads.
    columns : (float, float) or None
        Where two classes were made of one number: what that is multiplied by for the logit of each.
    logits_name : str
        The tensor that holds the logits, float32: what the final softmax or sigmoid reads, the output itself, or what
        nodes that were appended make of it.
    class_kind : ClassKind
        What the logits mean: classes of which one holds, or labels of which each holds or not.
    binary : bool
        Whether two classes, 'not that' and 'that', were made of one number.
    output_note : str or None
        How the logits were made, where the file has none.
    other_outputs : tuple of str
        Outputs that are not looked at.
    preprocess : Preprocess or None
        What is done to pictures, given or recorded.
    preprocess_source : str or None
        Where it comes from, in words.
    labels : tuple of str or None
        Class names as recorded in the file or beside it, or as its ZipMap has them.
    explains : dict or None
        What 'export' recorded in the file, if it explains itself; see `exported_graph`.
    """

    path: Path
    sha256: str
    beside: Sequence[Weights] = field(repr=False)
    data: bytes = field(repr=False)
    outputs: frozenset[str] = field(repr=False)
    held: Sequence[AnyArray] = field(repr=False)
    proto: onnx.ModelProto = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)
    opset: int
    input_name: str
    input_shape: tuple[int, int, int]
    batch: int | None
    entry: Entry
    rows: int | None
    arithmetic: Arithmetic
    own: frozenset[str] = field(repr=False)
    changes: tuple[str, ...]
    proof: Proof | None
    output_name: str
    output_kind: str
    source_name: str
    columns: tuple[float, float] | None
    logits_name: str
    class_kind: ClassKind
    binary: bool
    output_note: str | None
    other_outputs: tuple[str, ...]
    preprocess: Preprocess | None
    preprocess_source: str | None
    labels: tuple[str, ...] | None
    explains: dict[str, Any] | None = field(default=None, repr=False)

    def check_unchanged(self) -> None:
        """Refuse to go on where weights beside the file were changed since it was read.

        Raises
        ------
        ChangedError
            Then; see `intake.external.check_unchanged`.
        """
        check_unchanged(self.path, self.beside)


def load_model(
    path: Path,
    preprocess: str | Path | Preprocess | None = None,
    *,
    output: str | None = None,
    classes: str | None = None,
    recorded_classes: str | None = None,
    layout: str | None = None,
    inline_limit: int = INLINE_LIMIT,
    max_work: int = MAX_WORK,
    cached: Callable[[str], Cache] = lambda sha256: NOTHING_KEPT,
) -> Model:
    """Read and check a model.

    Parameters
    ----------
    path : Path
        The .onnx file.
    preprocess : str or Path or Preprocess, optional
        Takes the place of what is recorded in the file or beside it (see `preprocessing.found`); gives height and width
        where the file leaves them open.
    output : str, optional
        The output of class scores; by default the only one that looks like it.
    classes : {'exclusive', 'independent'}, optional
        What logits mean, where no softmax or sigmoid says it.
    recorded_classes : {'exclusive', 'independent'}, optional
        The same, as files beside the model record it; ``classes`` goes before it.
    layout : {'NCHW', 'NHWC'}, optional
        Where the channels of the input are; by default what the sizes of its axes say.
    inline_limit : int
        Bytes of weights beside the file that are read; where there are more they stay where they are.
    max_work : int
        Multiply-adds that the model may take for a picture, see `intake.work`.
    cached : callable
        What was found out of a model before, by its SHA-256.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If the file is no ONNX model, would compute more than ``max_work``, is no classifier of single pictures with
        logits to be found, or its canonical form cannot be proved to be the same.
    DataError
        If the preprocessing does not fit the model's input.
    SettingError
        If ``classes`` is unknown, or contradicts the graph.
    """
    file = read_file(path, inline_limit, max_work)
    file = file._replace(cache=cached(file.sha256))
    metadata = metadata_of(file.proto)
    beside = find_preprocess(preprocess, metadata, path, peek(file.proto, path))
    taken = take_in(file, beside.preprocess, layout=layout, output=output)
    proto, tensors, entry = taken.proto, taken.tensors, taken.entry
    net = Net(proto)
    found = settle_output(
        net,
        tensors,
        path,
        taken.endings,
        output=taken.output,
        classes=classes,
        recorded=recorded_classes or beside.classes,
        probe=lambda name: probe(proto, entry, taken.batch, name, path.parent),
    )
    if (last := where_picture_ends(net, tensors, entry.name, found.logits)) is not None:
        raise ModelError(
            f"{path}: the scores do not depend on the picture: nothing of it comes through {last.op_type} at "
            f"{last.output[0]!r}; export the trained model"
        )
    return Model(
        path=path,
        sha256=file.sha256,
        beside=file.beside,
        data=file.data,
        outputs=file.outputs,
        held=file.held,
        proto=proto,
        tensors=tensors,
        opset=net.opset,
        input_name=entry.name,
        input_shape=entry.shape,
        batch=taken.batch,
        entry=entry,
        rows=taken.rows,
        arithmetic=taken.arithmetic,
        own=taken.own,
        changes=(*(["what explains it is left out"] * (file.explains is not None)), *taken.changes),
        proof=taken.proof,
        output_name=found.name,
        output_kind=found.holds,
        source_name=found.source,
        columns=found.columns,
        logits_name=found.logits,
        class_kind=found.class_kind,
        binary=found.binary,
        output_note=found.note,
        other_outputs=found.others,
        preprocess=beside.preprocess,
        preprocess_source=beside.source,
        labels=recorded_labels(metadata, path) or beside.labels or class_names(net, tensors, found.name),
        explains=file.explains,
    )


def exported_graph(model: Model) -> onnx.ModelProto:
    """What 'export' made of a model, from its own input on.

    Parameters
    ----------
    model : Model
        One that explains itself.

    Returns
    -------
    onnx.ModelProto
        With all outputs but those in pixels of decoded pictures.

    Raises
    ------
    ChangedError
        If the file was changed since it was read.
    """
    assert model.explains is not None
    try:
        data = model.path.read_bytes()
    except OSError:
        data = b""
    if digest(data, ()) != model.sha256:
        raise ChangedError(f"{model.path}: the file was changed since it was read: open it again")
    proto = onnx.load_model_from_string(data)
    from_own_input(proto, model.explains)
    return proto
