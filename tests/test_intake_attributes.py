"""Attributes that nothing else objects to are refused in a line."""

import pytest

from onnx_evidence.errors import ModelError
from onnx_evidence.intake.model import load_model
from tests import tiny


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: setattr(node.attribute[0], "ref_attr_name", "x"), "stands for one of a function"),
        (
            lambda node: next(a for a in node.attribute if a.name == "strides").ints.__setitem__(0, 0),
            "'strides' of Conv at 'stem' is .*at least 1",
        ),
    ],
)
def test_attributes_that_cannot_be_are_refused(tmp_path, change, words):
    model = tiny.classifier()
    load_model(tiny.save(model, tmp_path / "model.onnx"))
    change(model.graph.node[0])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path / "model.onnx")
