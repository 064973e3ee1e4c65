"""How much a model computes, counted from the file alone, and refused where no classifier needs as much.

Shape inference, the folding of constants and the opening of a session already compute what a few bytes ask for: a
Range of a thousand million numbers, a Loop without an end, functions that double at every level. So this comes first.
"""

from pathlib import Path

import onnx

from onnx_evidence.counting.held import UNKNOWN, Held, of_shape
from onnx_evidence.counting.tally import BATCH, MAX_WORK, Limits, Work
from onnx_evidence.counting.turns import WholeWalk
from onnx_evidence.counting.walk import Walk
from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import bodies

# Pictures of a fixed batch; a file that insists on more is refused when its input is looked at.
_LARGEST_BATCH = 4096
_RANK = 4


def refuse_endless(
    proto: onnx.ModelProto, path: Path, limit: int = MAX_WORK, *, picture: str | None = None, batch: int | None = None
) -> Work:
    """Refuse a model that would compute more than a classifier does, before anything of it is computed.

    Sizes, and values of a few numbers, are followed through the graph, the bodies of control flow and local functions;
    nothing large is computed. Where the picture decides how often a Loop turns, one turn is counted, and its runs are
    limited in time (`sessions.Session`).

    Parameters
    ----------
    proto : onnx.ModelProto
        The model as read, its nodes in order.
    path : Path
        Its file, for messages.
    limit : int
        Multiply-adds for one picture; see `tally.Work` for what else counts.
    picture : str, optional
        The image input, where its channels, height and width are settled; until then what hangs on these is let pass.
    batch : int or None
        The batch size that the file insists on.

    Returns
    -------
    Work
        Of one run of the file.

    Raises
    ------
    ModelError
        If it is more, or hangs on values that only a run tells.
    """
    given = {value.name: _read(value, value.name == picture, batch or 1) for value in proto.graph.input}
    fixed = [held.shape[0] for held in given.values() if held.shape is not None and len(held.shape) == _RANK]
    rows = max(1, min(max(fixed, default=1), _LARGEST_BATCH))
    numbers = max((held.size or 0 for held in given.values()), default=0)
    settled = picture is not None
    work = _counted(WholeWalk(proto, path, Limits(limit, rows, numbers), settled=settled), given)
    if settled and batch is None and _has_range(proto.graph):
        # Inference reckons with a batch of thousands, and of all operators this one makes more numbers of a larger one.
        given = {value.name: _read(value, value.name == picture, BATCH) for value in proto.graph.input}
        _counted(WholeWalk(proto, path, Limits(limit, BATCH, numbers, only_told=True), settled=True), given)
    return work


def _counted(walk: Walk, given: dict[str, Held]) -> Work:
    try:
        return walk.whole(given)
    except RecursionError as error:
        raise ModelError(
            f"{walk.path}: functions or control flow lie deeper inside each other than can be followed: export the "
            "model without them"
        ) from error


def _read(value: onnx.ValueInfoProto, is_picture: bool, batch: int) -> Held:
    """What is known of an input."""
    tensor = value.type.tensor_type
    sides = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if is_picture and sides:
        sides[0] = batch
    known = [side for side in sides if side is not None]
    return of_shape(known) if tensor.HasField("shape") and len(known) == len(sides) else UNKNOWN


def _has_range(graph: onnx.GraphProto) -> bool:
    """Whether a Range is anywhere in a graph."""
    return any(node.op_type == "Range" or any(map(_has_range, bodies(node))) for node in graph.node)
