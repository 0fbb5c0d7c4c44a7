"""Einstein summation: joins on shared letters, and sums over those that the result lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kqo.frontend.algebra import combine, reduce
from kqo.frontend.context import Context
from kqo.frontend.linear import contract
from kqo.frontend.registry import lowers
from kqo.frontend.shapes import reshape
from kqo.frontend.values import BATCH, Constant, Operand, Value

DOTS = "..."
FIRST = 0x100
"""Code of the first letter that stands for a dimension without one of its own."""


@lowers("aten.einsum.default")
def einsum(
    at: Context, equation: str, tensors: Sequence[Operand], path: object | None = None
) -> Value:
    """Operands joined on the letters that they share, and the others summed away; a constant whose
    shared letters are all summed is a linear layer's kernel."""
    terms, result = _letters(at, equation, tensors)
    order = sorted(range(len(tensors)), key=lambda i: not isinstance(tensors[i], Value))
    found, term = at.value(tensors[order[0]]), terms[order[0]]
    for place, number in enumerate(order[1:], 2):
        wanted = {*result, *(letter for other in order[place:] for letter in terms[other])}
        found, term = _product(at, found, term, tensors[number], terms[number], wanted)
    found, term = _without(at, found, term, set(result))
    return Value(found.node, tuple(found.dims[term.index(letter)] for letter in result))


@lowers("aten.tensordot.default")
def tensordot(
    at: Context, a: Operand, b: Operand, dims_self: Sequence[int], dims_other: Sequence[int]
) -> Value:
    """An Einstein summation over pairs of dimensions."""
    first = [chr(FIRST + d) for d in range(_rank(a))]
    second = [chr(FIRST + len(first) + d) for d in range(_rank(b))]
    for d, e in zip(dims_self, dims_other, strict=True):
        second[e] = first[d]
    once = [x for x in (*first, *second) if (x in first) != (x in second)]
    return einsum(at, f"{''.join(first)},{''.join(second)}->{''.join(once)}", (a, b))


def _rank(operand: Operand) -> int:
    return len(operand.dims) if isinstance(operand, Value) else operand.tensor.dim()


def _letters(at: Context, equation: str, tensors: Sequence[Operand]) -> tuple[list[str], str]:
    """Letters of each operand's dimensions, and of the result's; those of an ellipsis, too."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    ranks = [_rank(o) + len(DOTS) - len(t) for o, t in zip(tensors, given.split(","), strict=True)]
    most = max((n for n, t in zip(ranks, given.split(","), strict=True) if DOTS in t), default=0)
    spare = "".join(chr(FIRST + n) for n in range(most))
    terms = [
        term.replace(DOTS, spare[most - n :])
        for n, term in zip(ranks, given.split(","), strict=True)
    ]
    if not arrow:
        every = given.replace(",", "").replace(DOTS, "")
        result = DOTS + "".join(sorted(c for c in set(every) if every.count(c) == 1))
    if any(len(set(term)) != len(term) for term in terms):
        at.unsupported("an equation that takes a diagonal")
    return terms, result.replace(DOTS, spare)


def _without(at: Context, value: Value, term: str, wanted: set[str]) -> tuple[Value, str]:
    """The value with letters that nobody wants summed away."""
    gone = [d for d, letter in enumerate(term) if letter not in wanted]
    if not gone:
        return value, term
    kept = "".join(letter for letter in term if letter in wanted)
    return reduce(at, value, gone, keepdim=False, agg="sum"), kept


def _product(
    at: Context, a: Value, letters: str, b: Operand, others: str, wanted: set[str]
) -> tuple[Value, str]:
    """Two operands joined and summed over the letters that nobody wants, with its letters."""
    if isinstance(b, Constant):
        shared = [letter for letter in others if letter in letters]
        new = [letter for letter in others if letter not in letters]
        kept = [a.dims[letters.index(s)] == BATCH or s in wanted for s in shared]
        extents = dict(zip(others, b.tensor.shape, strict=True))
        if (
            shared
            and new
            and not any(kept)
            and set(new) <= wanted
            and all(a.extent(letters.index(s)) == extents[s] for s in shared)
        ):
            return _linear(at, a, letters, b, others, shared, new)
    else:
        b, others = _without(at, b, others, wanted | set(letters))
    a, letters = _without(at, a, letters, wanted | set(others))
    every = letters + "".join(letter for letter in others if letter not in letters)
    left = Value(a.node, (*a.dims, *[None] * (len(every) - len(letters))))
    product = combine(at, "mul", left, _spread(b, others, every))
    return _without(at, product, every, wanted)


def _spread(operand: Operand, term: str, every: str) -> Operand:
    """The operand with a dimension for each letter; of extent 1 for those that it lacks."""
    if isinstance(operand, Value):
        dims = (operand.dims[term.index(e)] if e in term else None for e in every)
        return Value(operand.node, tuple(dims))
    tensor = operand.tensor.permute([term.index(e) for e in every if e in term])
    shape = [operand.tensor.shape[term.index(e)] if e in term else 1 for e in every]
    return Constant(operand.name, tensor.reshape(shape))


def _linear(
    at: Context, a: Value, letters: str, b: Constant, others: str, shared: list[str], new: list[str]
) -> tuple[Value, str]:
    """A linear layer from the shared letters to the new ones, which become the last dimensions."""
    ahead = [letter for letter in letters if letter not in shared]
    order = [letters.index(letter) for letter in (*ahead, *shared)]
    a = Value(a.node, tuple(a.dims[d] for d in order))
    shape = [at.batch if d == BATCH else a.extent(n) for n, d in enumerate(a.dims)]
    inner = math.prod(shape[len(ahead) :])
    if len(shared) > 1:
        a = reshape(at, a, (*shape[: len(ahead)], inner))
    kernel = b.tensor.permute([others.index(letter) for letter in (*new, *shared)])
    outer = kernel.shape[: len(new)]
    found = contract(at, a, len(ahead), Constant(b.name, kernel.reshape(-1, inner)))
    if len(new) > 1:
        found = reshape(at, found, (*shape[: len(ahead)], *outer))
    return found, "".join((*ahead, *new))
