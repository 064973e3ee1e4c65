"""Picture files: what they are, and the one reader that each of them takes.

* `formats`: the formats that are read, told by their first bytes, and names for files that are none of them.
* `decoding`: which reader a file takes, decided once, and the limits that all share.
* `pillow`: the reader of 8 bits; `tiff` and `netpbm`: of what it reduces or does not hold. 16-bit PNG and JPEG 2000
  are OpenCV's.
"""

from onnx_evidence.pictures.decoding import Decoded, decode, refuse_large, too_large
from onnx_evidence.pictures.formats import SUFFIXES
from onnx_evidence.pictures.pillow import PILLOW_VERSION

__all__ = ["PILLOW_VERSION", "SUFFIXES", "Decoded", "decode", "refuse_large", "too_large"]
