"""The command line: parse, one call, print. The only place where errors become exit codes.

Imported by: nobody.
"""

from onnx_evidence.cli.group import main

__all__ = ["main"]
