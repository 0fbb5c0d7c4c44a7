"""In-place operators as functional ones, where nothing else can see the memory that they write.

PyTorch's own way, ``ExportedProgram.run_decompositions``, traces the program a second time, which
takes longer than exporting it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from kqo.frontend.registry import TABLE

_NEW = {
    f"aten.{name}"
    for name in (
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "batch_norm", "linear", "matmul", "add", "sub", "mul", "div", "cat", "relu", "hardtanh",
        "relu6", "silu", "hardswish", "hardsigmoid", "sigmoid", "leaky_relu", "elu", "gelu",
        "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean", "sum",
        "group_norm", "layer_norm", "instance_norm", "softmax", "tanh", "mish", "softplus", "prelu",
        "exp", "neg", "sqrt", "rsqrt", "pow", "clamp", "maximum", "minimum", "stack", "addmm",
        "bmm", "abs", "square", "selu", "celu", "threshold", "clamp_min", "clamp_max",
        "upsample_nearest2d", "upsample_bilinear2d", "constant_pad_nd",
    )
}  # fmt: skip
"""Operators whose result is never part of the memory of an argument."""
_DROPOUT = tuple(
    f"aten.{kind}dropout{where}.default"
    for kind in ("", "feature_", "alpha_", "feature_alpha_")
    for where in ("", "_")
)


def made_functional(graph: fx.Graph, constants: Collection[fx.Node]) -> bool:
    """Replace in-place operators in a graph by functional ones.

    An operator that writes over what another has just computed is one that computes anew, and is
    what later readers read. That is done unless some operator writes to memory that others share,
    or is not such as the table lowers.

    Dropout goes in any case: it gives back its argument itself, which torch takes for a copy, so
    that it does not see what is written there.

    Args:
        graph: what is changed.
        constants: placeholders of what does not depend on the model's inputs.

    Returns:
        whether the graph is functional now, and the table lowers all operators that relate inputs.
    """
    for node in graph.nodes:
        if (
            node.op == "call_function"
            and str(node.target) in _DROPOUT
            and node.args[2:] == (False,)
        ):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    calls = [node for node in graph.nodes if node.op == "call_function"]
    fixed, twins = set(constants), dict[fx.Node, Any]()
    for node in calls:
        if fixed.issuperset(node.all_input_nodes):
            fixed.add(node)
        if _writes(node):
            twin = _twin(node)
            if twin is None or not _is_alone(node):
                return False
            twins[node] = twin
        elif not (node in fixed or node.target is operator.getitem or str(node.target) in TABLE):
            return False
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node, twin in twins.items():
        written = node.args[0]
        assert isinstance(written, fx.Node)
        with graph.inserting_before(node):
            made = graph.call_function(twin, node.args, node.kwargs)
        made.meta = dict(node.meta)
        order[made] = order[node]
        node.replace_all_uses_with(made)
        for user in [user for user in written.users if order[user] > order[node]]:
            user.replace_input_with(written, made)
        graph.erase_node(node)
    drop_unused(graph)  # what was written is not always read
    return True


def drop_unused(graph: fx.Graph) -> None:
    """Erase what nobody reads and what writes nothing. PyTorch's own way asks of every node whether
    it writes, which takes ten times as long."""
    for node in reversed(graph.nodes):
        if not node.users and not node.is_impure():
            graph.erase_node(node)


def _schema(node: fx.Node) -> torch.FunctionSchema | None:
    return getattr(node.target, "_schema", None)


def _writes(node: fx.Node) -> bool:
    schema = _schema(node)
    return schema is not None and schema.is_mutable


def _twin(node: fx.Node) -> Any:
    """The functional operator of an in-place one, where the table has it and it keeps the type.

    ``x.gt_(0)`` writes numbers, ``x.gt(0)`` gives truth values; ``pow_.Scalar`` raises a tensor to
    a number, ``pow.Scalar`` a number to a tensor.
    """
    types = {n.meta["val"].dtype for n in node.all_input_nodes}
    name, _, overload = str(node.target).removeprefix("aten.").partition("_.")
    if len(types) != 1 or f"aten.{name}" not in _NEW:
        return None
    found = getattr(getattr(torch.ops.aten, name, None), overload, None)
    return found if str(found) in TABLE and _takes(found) == _takes(node.target) else None


def _takes(target: Any) -> list[tuple[str, str]]:
    """Names and types of an operator's arguments."""
    return [(argument.name, str(argument.type)) for argument in target._schema.arguments]


def _is_alone(node: fx.Node) -> bool:
    """Whether no tensor shares memory with what the operator writes, its own result aside."""
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node) or written.op != "call_function":
        return False
    return all(_is_new(n) or n is node for n in (written, *written.users))


def _is_new(node: fx.Node) -> bool:
    """Whether the node's result is memory of its own, or what an in-place operator wrote there."""
    if node.op == "output":
        return True
    packet = str(node.target).rpartition(".")[0]
    return packet in _NEW or (_writes(node) and packet.removesuffix("_") in _NEW)
