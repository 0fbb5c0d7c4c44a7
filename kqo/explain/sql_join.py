"""Joins in SQL, solved for the output key.

The conditions of a join say which left key an output key reads. A database hashes on equality of
columns, so the conditions are turned around here: from a pair of tuples to the output key that the
pair belongs to. A convolution that took 14.5 s over tables of output keys took 0.06 s so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kqo.errors import PlanError
from kqo.explain.sql_expr import column, domain, rows
from kqo.ir.equations import Condition, Ranged
from kqo.ir.schema import Axes


@dataclass
class Solution:
    """Output keys as SQL over the two sides.

    Attributes:
        keys: SQL expression of each output axis.
        equal: conditions on columns of the two sides.
        more: further tables to join.
        where: conditions on the output key.
    """

    keys: dict[str, str]
    equal: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)


def solve(
    left: str,
    left_axes: Iterable[str],
    right: str,
    right_axes: Iterable[str],
    on: Sequence[Condition],
    *,
    declared: Axes,
) -> Solution:
    """Solve a join's conditions for the output key.

    Args:
        left: alias of the left table.
        left_axes: its key columns.
        right: alias of the right table.
        right_axes: its key columns; empty where there is no right side.
        on: the conditions; each binds a column of the left table.
        declared: output axes that neither side has; where some must be enumerated, the first are.
    """
    bound = {condition.axis for condition in on}
    keys = {name: column(left, name) for name in left_axes if name not in bound}
    found = Solution(keys)
    for name in right_axes:
        if name in keys:
            found.equal.append(f"{keys[name]} = {column(right, name)}")
        else:
            keys[name] = column(right, name)
    unknown = {axis.name: axis.extent or 0 for axis in declared if axis.name not in keys}
    pending = list(on)
    while pending or unknown:
        solved = [c for c in pending if _solve(c, left, found, unknown)]
        pending = [c for c in pending if c not in solved]
        if solved or not unknown:
            continue
        read = {name for condition in pending for name in condition.reads}
        name = next((n for n in unknown if n in read), next(iter(unknown)))
        alias = f"d{len(found.more)}"
        found.more.append(f"CROSS JOIN {domain(unknown.pop(name), alias, name)}")
        keys[name] = column(alias, name)
    return found


def _solve(condition: Condition, left: str, found: Solution, unknown: dict[str, int]) -> bool:
    """Use a condition if at most one axis that it reads is unknown."""
    if isinstance(condition, Ranged):
        _look_up(condition, left, found, unknown)
        return True
    factors: dict[str, int] = {}
    for coefficient, name in condition.terms:
        factors[name] = factors.get(name, 0) + coefficient
    missing = [name for name in factors if name in unknown]
    if len(missing) > 1 or (missing and factors[missing[0]] == 0):
        return False
    known = {found.keys[name]: factor for name, factor in factors.items() if name not in missing}
    read = column(left, condition.axis)
    if not missing:
        text = linear({read: condition.scale}, 0) + " = " + linear(known, condition.offset)
        plain = all("." in term and " " not in term for term in known)
        (found.equal if plain else found.where).append(text)
        return True
    name = missing[0]
    sign = 1 if factors[name] > 0 else -1
    divisor = abs(factors[name])
    terms = {term: -sign * factor for term, factor in known.items()}
    terms[read] = terms.get(read, 0) + sign * condition.scale
    value = linear(terms, -sign * condition.offset)
    if divisor > 1:
        found.where.append(f"({value}) % {divisor} = 0")
        value = f"CAST(({value}) / {divisor} AS BIGINT)"
    found.where.append(f"{value} BETWEEN 0 AND {unknown.pop(name) - 1}")
    found.keys[name] = value if divisor > 1 or value == read else f"({value})"
    return True


def _look_up(condition: Ranged, left: str, found: Solution, unknown: dict[str, int]) -> None:
    """Join a table of (out, tap, left) keys, which the condition's tables give."""
    alias = f"t{len(found.more)}"
    taps = unknown.get(condition.tap, max(b - a for a, b in _ranges(condition)))
    triples = [
        (out, tap, lo + tap)
        for out, (lo, hi) in enumerate(_ranges(condition))
        for tap in range(min(hi - lo, taps))
    ]
    if not triples:
        raise PlanError(f"SQL cannot say a condition without keys: {condition}")
    match = [f"{column(left, condition.axis)} = {alias}.i"]
    for name, key in ((condition.out, f"{alias}.o"), (condition.tap, f"{alias}.t")):
        if unknown.pop(name, None) is None:
            match.append(f"{found.keys[name]} = {key}")
        else:
            found.keys[name] = key
    found.more.append(f"JOIN {rows(triples)} AS {alias}(o, t, i) ON {' AND '.join(match)}")


def _ranges(condition: Ranged) -> list[tuple[int, int]]:
    return list(zip(condition.lo, condition.hi, strict=True))


def linear(terms: Mapping[str, int], offset: int) -> str:
    """``2 * l.y - r.ky + 1``."""
    text = ""
    for term, factor in terms.items():
        if factor == 0:
            continue
        sign = " - " if factor < 0 else " + "
        scaled = term if abs(factor) == 1 else f"{abs(factor)} * {term}"
        text += (sign if text else sign.strip(" +")) + scaled
    if offset or not text:
        sign = " - " if offset < 0 else " + "
        text += (sign if text else sign.strip(" +")) + str(abs(offset))
    return text


def alignment(pairs: Iterable[tuple[str, str]]) -> str:
    """``ON a.q = b.q AND a.y = b.y``; ``ON TRUE`` for none."""
    found = " AND ".join(f"{a} = {b}" for a, b in pairs)
    return f"ON {found or 'TRUE'}"


def renumber(run: Sequence[tuple[str, int]], into: Axes) -> dict[str, str]:
    """Keys of ``into`` as SQL, numbered row-major as the axes of ``run`` are.

    Args:
        run: SQL expression and extent of each old axis, in order.
        into: the new axes; as many keys.
    """
    if len(run) == len(into) == 1:
        return {into[0].name: run[0][0]}
    terms: dict[str, int] = {}
    stride = 1
    for key, extent in reversed(run):
        terms[key] = stride
        stride *= extent
    index = linear(dict(reversed(terms.items())), 0)
    found = {}
    for axis in into:
        extent = axis.extent or 1
        over = stride // extent
        digit = index if over == 1 else f"CAST(FLOOR(({index}) / {over}.0) AS BIGINT)"
        wraps = axis is not into[0]
        found[axis.name] = f"({digit}) % {extent}" if wraps else digit
        stride = over
    return found
