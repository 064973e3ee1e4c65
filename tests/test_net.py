"""The graph that is read and edited, against slow twins: scans, fixed points, and an interpreter of a few operators."""

import random
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.graphs import Net, node_inputs

SEEDS = st.integers(0, 2**32 - 1)


# --- random graphs ----------------------------------------------------------------------------------------------------


def _number(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32(value), name)


def _nodes(draw: random.Random, seen: list[str], prefix: str, depth: int) -> list[onnx.NodeProto]:
    """Nodes that read what was seen, some with bodies that capture it and hide names of it."""
    made, seen = [], [*seen]
    for number in range(draw.randrange(1, 7)):
        name = f"{prefix}{number}"
        kind = draw.choice(["Add", "Neg", "Split", "If"] if depth else ["Add", "Neg", "Split"])
        if kind == "If":
            bodies = [_body(draw, seen, f"{name}.{word}.", depth - 1) for word in ("then", "else")]
            made.append(
                helper.make_node("If", [draw.choice(seen)], [name], then_branch=bodies[0], else_branch=bodies[1])
            )
        elif kind == "Split":  # of one output that nobody asks for, and one that counts
            made.append(helper.make_node("Split", [draw.choice(seen)], ["", name]))
        else:
            made.append(helper.make_node(kind, draw.choices(seen, k=1 + (kind == "Add")), [name]))
        seen.append(name)
    return made


def _body(draw: random.Random, seen: list[str], prefix: str, depth: int) -> onnx.GraphProto:
    hidden = draw.choice(seen)
    own = [_number(draw.choice([f"{prefix}c", hidden]), draw.randrange(9))]
    names = [*(name for name in seen if name != own[0].name), own[0].name]
    nodes = _nodes(draw, names, prefix, depth)
    result = draw.choice([*(node.output[-1] for node in nodes), *names])
    return helper.make_graph(nodes, "body", [], [onnx.ValueInfoProto(name=result)], own)


def net_of(seed: int) -> Net:
    draw = random.Random(seed)
    constants = [_number(name, value) for name, value in (("c", 2), ("d", 3))]
    nodes = _nodes(draw, ["x", "c", "d"], "t", 2)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "net", [value], [onnx.ValueInfoProto(name=nodes[-1].output[-1])], constants)
    return Net(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


# --- slow twins -------------------------------------------------------------------------------------------------------


def reads(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node reads a tensor of the graph around it: asked name by name, where `node_inputs` gathers."""
    inside = [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
    return name in node.input or any(_captures(graph, name) for graph in inside)


def _captures(graph: onnx.GraphProto, name: str) -> bool:
    if name in [each.name for each in (*graph.input, *graph.initializer)]:
        return False
    if any(name in node.output for node in graph.node):
        return False
    return name in [each.name for each in graph.output] or any(reads(node, name) for node in graph.node)


def all_names(net: Net) -> set[str]:
    said = [value.name for value in (*net.graph.input, *net.graph.output)] + [*net.constants]
    return {*said, *(name for node in net.nodes for name in (*node.input, *node.output))} - {""}


def slow_needed(net: Net, names: set[str], stop: set[str], leaf: str) -> list[onnx.NodeProto]:
    """By fixed point: nodes that make something wanted, and what these read."""
    while True:
        nodes = [node for node in net.nodes if (names - stop).intersection(node.output)]
        further = {name for node in nodes if node.op_type != leaf for name in all_names(net) if reads(node, name)}
        if further <= names:
            return nodes
        names = names | further


def slow_reached(net: Net, start: set[str], stops: str) -> set[str]:
    found = set(start)
    for _ in net.nodes:
        for node in net.nodes:
            if node.op_type != stops and any(reads(node, name) for name in found):
                found |= set(node.output)
    return found


def complaints(net: Net) -> Iterator[str]:
    """Where the maps disagree with what a scan finds."""
    for name in all_names(net):
        makers = [node for node in net.nodes if name in node.output]
        if [net.producer.get(name)] != (makers or [None]):
            yield f"producer of {name}"
        if net.readers.get(name, []) != [node for node in net.nodes if reads(node, name)]:
            yield f"readers of {name}"
    if "" in net.producer or "" in net.readers:
        yield "what is left out has a name"
    if not all_names(net) <= net.taken:
        yield "a name is not taken"


def run(graph: onnx.GraphProto, around: Mapping[str, float]) -> dict[str, float]:
    """What every tensor is: Split hands on in its last output, If chooses by the sign."""
    values = {**around, **{each.name: float(numpy_helper.to_array(each)) for each in graph.initializer}}
    for node in graph.node:
        read = [values[name] for name in node.input]
        if node.op_type == "If":
            body = node.attribute[1 if read[0] > 0 else 0].g
            made = run(body, values)[body.output[0].name]
        else:
            made = sum(read) if node.op_type == "Add" else -read[0] if node.op_type == "Neg" else read[0]
        values[node.output[-1]] = made
    return values


# --- reading ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_maps_are_those_of_a_scan(seed):
    assert [*complaints(net_of(seed))] == []


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_what_a_tensor_needs_and_what_follows_from_it_are_those_of_a_fixed_point(seed):
    net, draw = net_of(seed), random.Random(seed)
    names, stop = ({*draw.choices(sorted(all_names(net)), k=2)} for _ in range(2))
    leaf = draw.choice(["", "Neg", "If"])
    needed = net.needed(*sorted(names), stop=stop, is_leaf=lambda node: node.op_type == leaf)
    assert needed == slow_needed(net, names, stop, leaf)
    found = list(net.ancestors(*sorted(names), stop=stop, is_leaf=lambda node: node.op_type == leaf))
    assert sorted(map(id, found)) == sorted(map(id, needed))
    assert net.reached(*names, stops=lambda node: node.op_type == leaf) - {""} == slow_reached(net, names, leaf) - {""}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_model_of_what_an_output_needs_computes_the_same(seed):
    net = net_of(seed)
    whole, draw = run(net.graph, {"x": 1.5}), random.Random(seed)
    output = draw.choice([*net.producer])
    part = net.model_of(net.needed(output), net.graph.input, [onnx.ValueInfoProto(name=output)], "part")
    assert run(part.graph, {"x": 1.5})[output] == whole[output]
    read = {name for node in part.graph.node for name in node_inputs(node)}
    assert {tensor.name for tensor in part.graph.initializer} == read & net.constants.keys()
    assert part.opset_import[0].version == net.opset == 17


def test_graphs_inside_are_read_in_their_own_scope():
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "hidden"], ["y"])], "b", [], [onnx.ValueInfoProto(name="y")], [_number("x", 1)]
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    net = Net(model)
    assert net.readers.keys() == {"c", "hidden"}
    body = Net(model, net.nodes[0].attribute[0].g)
    assert (body.outputs, body.opset, [*body.constants], [*body.producer]) == (["y"], net.opset, ["x"], ["y"])
    net.redirect({"x": "other", "hidden": "seen"})
    assert [*body.nodes[0].input] == ["x", "seen"]


# --- writing ----------------------------------------------------------------------------------------------------------


def edit(net: Net, draw: random.Random) -> None:
    """One change of any kind."""
    names = sorted(all_names(net))
    kind = draw.choice(["write", "constant", "redirect", "take", "rename", "sort", "finish"])
    if kind == "write":
        net.write("Add", draw.choices(names, k=2), net.fresh(draw.choice(names)))
    elif kind == "constant":
        net.write("Neg", [net.constant(draw.choice(names), np.float32(4))], net.fresh("n", counted=True))
    elif kind == "redirect":
        net.redirect({draw.choice(names): draw.choice(["c", "d", "x"])})
    elif kind == "take":
        gone = draw.randrange(len(net.nodes) or 1)
        net.add(*(node for place, node in enumerate(net.take()) if place != gone))
    elif kind == "rename":
        old = draw.choice([*net.producer, "absent"])
        net.rename({old: net.fresh(f"{old}/new")})
    elif kind == "sort":
        net.sort()
    else:
        net.finish()


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_maps_are_those_of_a_scan_after_any_edits(seed):
    net, draw = net_of(seed), random.Random(seed)
    for _ in range(6):
        edit(net, draw)
        assert [*complaints(net)] == []
    twin = net.copy()
    net.finish()
    assert [*net.graph.node] == net.nodes == twin.nodes
    assert {tensor.name for tensor in net.graph.initializer} == net.constants.keys() == twin.constants.keys()
    assert len(net.graph.initializer) == len(net.constants)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_what_reads_another_tensor_computes_with_it(seed):
    net, draw = net_of(seed), random.Random(seed)
    old = draw.choice(["x", "c"])
    net.redirect({old: net.constant("new", np.float32(3))})
    net.finish()
    # As if the other had had that value from the start.
    expected = net_of(seed)
    values = {tensor.name: tensor for tensor in expected.graph.initializer}
    if old == "c":
        values["c"].CopyFrom(_number("c", 3))
    told = {"x": 3.0 if old == "x" else 1.5}
    output = net.outputs[0]
    assert run(net.graph, {"x": 1.5})[output] == run(expected.graph, told)[output]


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_nodes_in_any_order_are_put_behind_what_they_read(seed):
    expected = run(net_of(seed).graph, {"x": 1.5})
    net, draw = net_of(seed), random.Random(seed)
    nodes = net.take()
    was = [*nodes]
    draw.shuffle(nodes)
    net.add(*nodes)
    changed = net.sort()
    net.finish()
    assert run(net.graph, {"x": 1.5}) == expected
    assert changed or nodes == net.nodes
    assert not (nodes == was and changed)
    assert not net.sort()


def test_a_cycle_is_left_as_it_is():
    nodes = [helper.make_node("Neg", [read], [made]) for read, made in (("b", "a"), ("a", "b"))]
    net = Net(helper.make_model(helper.make_graph(nodes, "cycle", [], [])))
    assert (net.sort(), net.nodes) == (False, nodes)


def test_names_are_free_and_stay_taken():
    net = net_of(1)
    assert [net.fresh("x") for _ in range(3)] == ["x_", "x__", "x___"]
    assert [net.fresh("new", counted=True) for _ in range(3)] == ["new", "new2", "new3"]
    first = net.nodes[0].output[-1]
    net.take()
    assert net.fresh(first) == f"{first}_"
    assert net.constant("c", np.float32(0)) == "c_"


def test_what_is_written_stands_apart_until_it_is_finished():
    net = net_of(2)
    before = net.proto.SerializeToString(deterministic=True)
    maps = {**net.producer}, {name: [*readers] for name, readers in net.readers.items()}
    twin = net.copy()
    twin.write("Split", ["x", "", ""], "a", "b", axis=None, num_outputs=2)
    twin.constant("big", np.zeros(3, np.float32))
    assert twin.fresh("b") == "b_"
    assert (net.producer, net.readers) == maps
    assert net.proto.SerializeToString(deterministic=True) == before
    assert "a" not in net.producer
    assert "big" not in net.constants
    assert "a" not in net.taken
    node = twin.producer["b"]
    assert ([*node.input], [*node.output], node.name) == (["x"], ["a", "b"], "a")
    assert [each.name for each in node.attribute] == ["num_outputs"]
    twin.finish()
    assert net.graph.node[-1] == node
    np.testing.assert_array_equal(numpy_helper.to_array(net.graph.initializer[-1]), np.zeros(3))
    np.testing.assert_array_equal(twin.array("big"), np.zeros(3))
    assert twin.array("a") is None


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["add", "rename", "remove", "capture"])
def test_control_a_map_that_is_wrong_is_found(spoil: str):
    net = net_of(3)
    assert [*complaints(net)] == []
    if spoil == "add":
        net.nodes.append(helper.make_node("Neg", ["x"], ["later"]))
    elif spoil == "rename":
        net.nodes[0].output[-1] = "other"
    elif spoil == "remove":
        del net.nodes[0]
    else:
        body = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "b", [], [onnx.ValueInfoProto(name="y")])
        net.nodes[0].attribute.append(helper.make_attribute("then_branch", body))
        net.nodes[0].input[:] = ["c"]
    assert [*complaints(net)]


def test_control_random_graphs_hold_what_is_hard():
    nets = [net_of(seed) for seed in range(40)]
    kinds = {node.op_type for net in nets for node in net.nodes}
    assert kinds == {"Add", "Neg", "Split", "If"}
    captured = [name for net in nets for node in net.nodes for name in {*node_inputs(node)} - {*node.input}]
    assert len(captured) > 20
