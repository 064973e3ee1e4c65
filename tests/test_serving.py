"""The recipes of docs/serving.md, as far as they need nothing but this package."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_recipes_ask_for_what_exported_files_have():
    """Names of inputs and outputs are those that `export` writes."""
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    source = (DOCS.parent / "onnx_evidence" / "export" / "build.py").read_text(encoding="utf-8")
    names = {"picture", "budget", "evidence_in_picture"}
    assert all(f'"{name}"' in source for name in names)
    declared = set(re.findall(r'name: "(\w+)", data_type', text))
    assert declared == names | {"logits"}
    program = (DOCS.parent / "tools" / "serving" / "explain.cc").read_text(encoding="utf-8")
    assert all(f'"{name}"' in program for name in names)
