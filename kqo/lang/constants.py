"""Constant folding: which constant expressions are worth a value, and their values in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kqo.ir.nodes import Const, Domain, Group, Join, Map, Node, Rekey, Union
from kqo.ir.plan import Array
from kqo.ir.scalar import Call, Expr, Num, Var, is_exact
from kqo.ir.scalar import evaluate as evaluate_scalar
from kqo.ir.schema import extent_of, names, shape, size

LARGEST_EXPANSION = 1 << 16
SMALL = 1 << 12
"""Keys up to which a folded constant's values are kept, to fold others from them."""
BLOCK = 1 << 15
"""Keys of a block of a large constant."""
_IN_PLACE = ("mul", "add", "sub", "div", "max", "min")
_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "mul": np.multiply,
    "add": np.add,
    "sub": np.subtract,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "left": lambda a, b: np.broadcast_arrays(a, b)[0],
    "gt": lambda a, b: np.greater(a, b).astype(np.float64),
    "ge": lambda a, b: np.greater_equal(a, b).astype(np.float64),
    "eq": lambda a, b: np.equal(a, b).astype(np.float64),
    "when": lambda v, m: np.where(np.asarray(m) != 0, v, -np.inf),
}
_SCALAR: dict[str, Callable[..., Any]] = {
    **{name: _COMBINE[name] for name in _COMBINE if name != "left"},
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "where": np.where,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "fmod": np.fmod,
}
_AGGREGATE: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
}


_KNOWN = "is_constant"
"""Where a node keeps what was found of it; the plans of a process share most nodes."""


def is_constant(node: Node) -> bool:
    """Whether all leaves below are Const or Domain. Iterative, since plans are deep."""
    found: bool | None = node.__dict__.get(_KNOWN)
    if found is not None:
        return found
    stack = [node]
    while stack:
        top = stack[-1]
        known = [source.__dict__.get(_KNOWN) for source in top.inputs]
        if not known:
            top.__dict__[_KNOWN] = isinstance(top, (Const, Domain))
        elif False in known or None not in known:
            top.__dict__[_KNOWN] = False not in known
        else:
            stack += [source for source in top.inputs if _KNOWN not in source.__dict__]
            continue
        stack.pop()
    return bool(node.__dict__[_KNOWN])


def is_foldable(node: Node) -> bool:
    """Whether :func:`evaluate` takes the node, whose inputs are all constant.

    It takes no windows, and nothing above one; and no large result of small inputs.
    """
    if not all(isinstance(source, (Const, Domain)) for source in node.inputs):
        return False
    if isinstance(node, (Map, Rekey, Union)):
        return True
    if isinstance(node, Group):
        return size(node.input.schema) > 0
    if not isinstance(node, Join) or node.on or node.axes:
        return False
    largest = max(size(node.left.schema), size(node.right.schema))
    return size(node.schema) <= max(largest, LARGEST_EXPANSION)


def evaluate(
    node: Node,
    constants: Mapping[str, Array],
    folded: Mapping[str, Node],
    small: dict[str, Array] | None = None,
) -> Array:
    """The values of a constant node, shaped as its axes; arithmetic is done in float64.

    Args:
        node: a node of which everything below is constant and foldable.
        constants: values by name.
        folded: constants that stand for other nodes.
        small: values of folded constants of few keys, shared among calls; filled in.

    Raises:
        KeyError: a constant has neither a value nor a node that it stands for.
    """
    if isinstance(node, Const):
        if node.name in constants:
            return constants[node.name]
        if small is not None and node.name in small:
            return small[node.name]
        found = evaluate(folded[node.name], constants, folded, small)
        if small is not None and found.size <= SMALL:
            small[node.name] = found
        return found
    if isinstance(node, Domain):
        return np.ones(shape(node.axes))
    values = [evaluate(source, constants, folded, small) for source in node.inputs]
    if isinstance(node, Rekey):
        before = names(node.input.schema)
        moved = np.transpose(values[0], [before.index(name) for name in node.order])
        return moved.reshape(shape(node.axes))
    if isinstance(node, Union):
        return np.concatenate(values, axis=names(node.parts[0].schema).index(node.axis))
    values = [value.astype(np.float64, copy=False) for value in values]
    with np.errstate(all="ignore"):
        return _arithmetic(node, values)


def evaluate_as(
    dtype: str,
    node: Node,
    constants: Mapping[str, Array],
    folded: Mapping[str, Node],
    small: dict[str, Array],
) -> Array:
    """:func:`evaluate` with the result in ``dtype``: float32 or float64.

    A kernel that is scaled, several times maybe, is read once, in blocks that stay in the cache.
    """
    steps: list[tuple[Callable[[Any, Any], Any], Array]] = []
    at = node
    while isinstance(at, Join) and at.left.schema == at.schema and at.combine in _IN_PLACE:
        right = _side(at, at.right, evaluate(at.right, constants, folded, small))
        steps.append((_COMBINE[at.combine], right.astype(np.float64, copy=False)))
        at = at.left
        while isinstance(at, Const) and at.name not in constants:
            at = folded[at.name]
    if not steps or not node.schema:
        return evaluate(node, constants, folded, small).astype(dtype, copy=False)
    first = evaluate(at, constants, folded, small)
    found = np.empty(first.shape, dtype=dtype)
    rows = max(1, BLOCK * len(first) // first.size)
    with np.errstate(all="ignore"):
        for start in range(0, len(first), rows):
            part = slice(start, start + rows)
            block = first[part].astype(np.float64)
            for function, right in reversed(steps):
                block = function(block, right[part] if len(right) > 1 else right)
            found[part] = block
    return found


def _side(node: Join, source: Node, value: Array) -> Array:
    """One side of a join, with an axis for each of the join's."""
    out, own = names(node.schema), names(source.schema)
    ordered = np.transpose(value, [own.index(name) for name in out if name in own])
    return ordered.reshape([extent_of(source.schema, name) if name in own else 1 for name in out])


def _arithmetic(node: Node, values: list[Array]) -> Array:
    if isinstance(node, Map):
        return np.asarray(np.broadcast_to(_apply(node.fn, values[0]), values[0].shape))
    if isinstance(node, Group):
        before = names(node.input.schema)
        gone = tuple(i for i, name in enumerate(before) if name not in node.by)
        kept = [name for name in before if name in node.by]
        value = _AGGREGATE[node.agg](values[0], axis=gone) if gone else values[0]
        return np.transpose(value, [kept.index(name) for name in node.by])
    assert isinstance(node, Join)
    sides = [_side(node, *side) for side in zip(node.inputs, values, strict=True)]
    result = np.broadcast_to(_COMBINE[node.combine](*sides), shape(node.schema))
    return np.asarray(result, dtype=np.float64)


def _apply(fn: Expr, v: Array) -> Any:
    if isinstance(fn, Var):
        return v
    if isinstance(fn, Num):
        return fn.value
    if fn.fn in _SCALAR:
        return _SCALAR[fn.fn](*(_apply(arg, v) for arg in fn.args))
    flat = [evaluate_scalar(fn, {"v": float(x)}) for x in np.ravel(v)]
    return np.array(flat, dtype=np.float64).reshape(np.shape(v))


def simplify(fn: Expr) -> Expr:
    """The expression with exact calls on numbers alone computed."""
    if not isinstance(fn, Call):
        return fn
    args = tuple(simplify(arg) for arg in fn.args)
    done = Call(fn.fn, args)
    if is_exact(done) and all(isinstance(arg, Num) for arg in args):
        try:
            return Num(float(evaluate_scalar(done, {})))
        except ZeroDivisionError:
            return done
    return done
