"""A map and all that is known of it, and its figure.

Imported by: batch, evaluation, explainer, export.
Entered on its own, because matplotlib is slow to import: figure.
"""

from onnx_evidence.results.explanation import Explanation, Extreme, Named, write_figure

__all__ = ["Explanation", "Extreme", "Named", "write_figure"]
