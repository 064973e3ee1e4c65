"""The command line: parse, one call, print.

Imported by: nobody.
"""

from onnx_evidence.cli.commands import main

__all__ = ["main"]
