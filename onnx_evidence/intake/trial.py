"""Files that the ONNX checker objects to: whether ONNX Runtime opens them, and what must be put right then.

The checker knows the letter of the standard; the deployed file is what the runtime makes of it. But a file that is
really damaged may end the runtime's process, so it is opened in one of its own first.
"""

import re
import subprocess
import sys
from pathlib import Path

import onnx
from onnx import helper

from onnx_evidence.graphs import is_standard, opset_of
from onnx_evidence.sessions import without_source

# ONNX Runtime's own domain.
VENDOR = "com.microsoft"
# Opset since which operators are standard that ONNX Runtime has in the standard domain at any.
_STANDARD_SINCE = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 10**6}
# Opening takes seconds; what takes longer is refused, as the checker has it.
_PATIENCE = 120.0
_PROGRAM = """
import sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = options.inter_op_num_threads = 1
try:
    onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
except Exception as error:
    print(error)
    sys.exit(3)
"""
_SAID = 3
# What stands before every message about loading.
_LOADING = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : Load model from .*? failed:")
# Of domains that a file uses without saying which version: the runtime has one, or all operators are in these.
_VERSIONS = {VENDOR: 1, "com.microsoft.nchwc": 1, "ai.onnx.ml": 3}
# Before this version weights had to be listed as inputs.
_UNLISTED = 4


def runtime_refusal(path: Path) -> str | None:
    """What ONNX Runtime says to a file, tried in a process of its own, with its weights beside it.

    None where it opens the file. Empty where it says nothing: it crashes, or does not end in time, or no process can be
    started.
    """
    command = [sys.executable, "-P", "-c", _PROGRAM, str(path.resolve())]
    try:
        ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    if ended.returncode == 0:
        return None
    said = ended.stdout.decode("utf-8", "replace").strip().splitlines()
    return _LOADING.sub("", without_source(said[0])) if said and ended.returncode == _SAID else ""


def put_right(proto: onnx.ModelProto) -> None:
    """Mend in place what the checker objects to and the runtime does not mind, as the runtime understands it."""
    graph = proto.graph
    proto.ir_version = max(proto.ir_version, _UNLISTED)
    graph.name = graph.name or "model"
    for node in graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    listed = {each.domain for each in proto.opset_import}
    for domain in sorted({node.domain for node in graph.node} & set(_VERSIONS) - listed):
        proto.opset_import.add(domain=domain, version=_VERSIONS[domain])
    # Of weights with the same name the runtime takes the last.
    last = {tensor.name: place for place, tensor in enumerate(graph.initializer)}
    for place in reversed(range(len(graph.initializer))):
        name = graph.initializer[place].name
        if not name or last[name] != place:
            del graph.initializer[place]


def name_strays(proto: onnx.ModelProto) -> bool:
    """Put operators that ONNX Runtime adds to the standard domain into its own, in place; whether there were any.

    The checker knows none of them in the standard domain.
    """
    opset = opset_of(proto.opset_import)
    strays = [node for node in proto.graph.node if is_standard(node) and opset < _STANDARD_SINCE.get(node.op_type, 0)]
    for node in strays:
        node.domain = VENDOR
    if strays and all(each.domain != VENDOR for each in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(VENDOR, 1))
    return bool(strays)
