"""Picture files: what they are, and the one reader that each of them takes.

* `formats`: the formats that are read, told by their first bytes, and names for files that are none of them.
* `decoding`: which reader a file takes, decided once, and the limits that all share.
* `figures`: what this program drew itself, told by what lies beside it.
* `pillow`: the reader of 8 bits; `tiff` and `netpbm`: of what it reduces or does not hold. 16-bit PNG and JPEG 2000
  are OpenCV's.

Imported by: batch, cli, cuts, deployed, evaluation, explainer, export, methods, preprocessing, results.
"""

from onnx_evidence.pictures import formats, opencv, pillow
from onnx_evidence.pictures.limits import MAX_PIXELS
from onnx_evidence.pictures.opencv import OPENCV_VERSION, blur, blur_reach, inpaint
from onnx_evidence.pictures.photograph import (
    WHITEST,
    Photograph,
    as_photograph,
    figures_of,
    list_images,
    printable,
    read_mask,
    read_photograph,
    without_figures,
)
from onnx_evidence.pictures.pillow import PILLOW_VERSION
from onnx_evidence.pictures.placement import Placement, padding_bits, spread_to_original, to_original

__all__ = [
    "MAX_PIXELS",
    "OPENCV_VERSION",
    "PILLOW_VERSION",
    "WHITEST",
    "Photograph",
    "Placement",
    "as_photograph",
    "blur",
    "blur_reach",
    "figures_of",
    "formats",
    "inpaint",
    "list_images",
    "opencv",
    "padding_bits",
    "pillow",
    "printable",
    "read_mask",
    "read_photograph",
    "spread_to_original",
    "to_original",
    "without_figures",
]
