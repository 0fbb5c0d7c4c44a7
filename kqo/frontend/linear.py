"""Linear layers and matrix products: joins on the contracted axis, and a sum."""

from __future__ import annotations

import math

import torch

from kqo.frontend.algebra import apply, combine
from kqo.frontend.context import Context
from kqo.frontend.reductions import softmax
from kqo.frontend.registry import lowers
from kqo.frontend.shapes import squeeze_dims
from kqo.frontend.values import (
    BATCH,
    Constant,
    Number,
    Operand,
    Value,
    feature,
    fresh,
    give_axes,
)
from kqo.ir.equations import equal
from kqo.ir.nodes import Group, Join
from kqo.ir.scalar import V, call
from kqo.ir.schema import names


@lowers("aten.linear.default")
def linear(at: Context, x: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    """``x @ weight.T + bias`` over the last dimension."""
    value = at.value(x)
    product = contract(at, value, len(value.dims) - 1, at.constant(weight, "the weight"))
    return product if bias is None else combine(at, "add", product, bias)


def contract(at: Context, value: Value, dim: int, weight: Constant) -> Value:
    """A dimension times a weight (out, in): ``sum over i of weight[o, i] * x[i]``."""
    value = give_axes(value, {dim: feature(None, value.dims)})
    old = value.dims[dim]
    assert old is not None
    others = {d for n, d in enumerate(value.dims) if n != dim}
    new, inner = feature(old, others), fresh("i", value.dims)
    rows, columns = weight.tensor.shape
    kernel = at.const(weight, ((new, rows), (inner, columns)))
    joined = Join(value.node, kernel, (equal(old, inner),), (), "mul")
    by = tuple(new if n == old else n for n in names(value.node.schema))
    dims = tuple(new if n == dim else d for n, d in enumerate(value.dims))
    return Value(Group(joined, by, "sum"), dims)


@lowers("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default")
def matmul(at: Context, a: Operand, b: Operand) -> Value:
    """A matrix product as ``torch.matmul`` has it; either side may be a constant."""
    if isinstance(a, Value) and isinstance(b, Constant) and b.tensor.dim() in (1, 2):
        if b.tensor.dim() == 2:
            return contract(at, a, len(a.dims) - 1, Constant(b.name, b.tensor.t()))
        out = contract(at, a, len(a.dims) - 1, Constant(b.name, b.tensor[None]))
        return squeeze_dims(out, (-1,))
    if isinstance(a, Constant) and isinstance(b, Value) and a.tensor.dim() == 2 and len(b.dims) > 1:
        return contract(at, b, len(b.dims) - 2, a)
    return _product(at, at.as_value(a), at.as_value(b))


def _product(at: Context, a: Value, b: Value) -> Value:
    """Both sides vary, or have more than two dimensions: ``(..., n, k) @ (..., k, m)``."""
    if BATCH in (*a.dims[-1:], *b.dims[-2:-1]):
        at.mixes_batch()
    vector_a, vector_b = len(a.dims) == 1, len(b.dims) == 1
    left = Value(a.node, (None, *a.dims) if vector_a else a.dims)
    right = Value(b.node, (*b.dims, None) if vector_b else b.dims)
    # (..., n, k, 1) and (..., 1, k, m): k aligns with k, the rest broadcasts.
    wide = Value(left.node, (*left.dims, None))
    other = Value(right.node, (*right.dims[:-2], None, *right.dims[-2:]))
    product = combine(at, "mul", wide, other)
    contracted = product.dims[-2]
    node = product.node
    if contracted is not None:
        by = tuple(n for n in names(node.schema) if n != contracted)
        node = Group(node, by, "sum")
    dims = (*product.dims[:-2], product.dims[-1])
    if vector_a:
        dims = (*dims[:-2], dims[-1])
    return Value(node, dims[:-1] if vector_b else dims)


@lowers("aten.scaled_dot_product_attention.default", kind="attention")
def attention(
    at: Context,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(scale * query @ key.T + mask) @ value`` (Vaswani et al., 2017, equation 1)."""
    if dropout_p or is_causal or enable_gqa:
        at.unsupported("attention with dropout, a causal mask or grouped queries")
    width = query.extent(len(query.dims) - 1)
    factor = 1 / math.sqrt(width) if scale is None else scale
    flipped = Value(key.node, (*key.dims[:-2], key.dims[-1], key.dims[-2]))
    scores = apply(_product(at, query, flipped), call("mul", V, factor))
    if attn_mask is not None:
        if isinstance(attn_mask, Constant) and attn_mask.tensor.dtype == torch.bool:
            bias = torch.zeros(attn_mask.tensor.shape).masked_fill(~attn_mask.tensor, -math.inf)
            attn_mask = Constant(attn_mask.name, bias)
        scores = combine(at, "add", scores, attn_mask)
    return _product(at, softmax(at, scores, -1), value)


@lowers("aten.addmm.default")
def addmm(
    at: Context, bias: Operand, a: Operand, b: Operand, beta: Number = 1, alpha: Number = 1
) -> Value:
    """``beta * bias + alpha * (a @ b)``."""
    product = matmul(at, a, b)
    if alpha != 1:
        product = apply(product, call("mul", V, alpha))
    if beta != 1:
        bias = apply(at.as_value(bias), call("mul", V, beta))
    return combine(at, "add", product, bias)
