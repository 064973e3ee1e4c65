"""The table of methods: what ``--method`` names. A method is added with a file of its own and a line here."""

from onnx_evidence.methods import inside, masks, order, path, removal, slopes
from onnx_evidence.methods.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        path.INTEGRATED,
        order.ORDERED,
        *removal.METHODS,
        path.INTEGRATED_GRADIENTS,
        *slopes.METHODS,
        *masks.METHODS,
        inside.INSIDE,
    )
}
# Where the method is left to choose: without a backward graph, and without a cut that has a grid. Of what works on
# pixels alone and takes no more than a few hundred passes, occlusion predicts best (docs/faithfulness.md).
FALLBACK_METHODS = (removal.WINDOW.name, removal.OCCLUSION.name)
