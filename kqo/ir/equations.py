"""Join conditions: which key of the left relation meets which output key.

Axes that both sides of a join have under one name are equal, as in a natural join. What a window
does is said by the conditions: an :class:`Affine` equation binds one axis of the left relation to
output axes, ``scale * left = sum(coefficient * axis) + offset``; a :class:`Ranged` one binds it by
monotone tables, as adaptive pooling and resizing need. A key that would fall outside the left
relation, or that the scale does not divide, finds no partner: padding is a join that misses.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale * left.axis = c1*a1 + c2*a2 + ... + offset`` over output axes a1, a2, ..."""

    axis: str
    terms: tuple[tuple[int, str], ...]
    offset: int = 0
    scale: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """The output axes that the equation names."""
        return tuple(name for _, name in self.terms)

    def __str__(self) -> str:
        right = ""
        for coefficient, name in self.terms:
            sign = " - " if coefficient < 0 else " + "
            factor = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
            right += (sign if right else sign.strip(" +")) + factor + name
        if self.offset or not right:
            sign = " - " if self.offset < 0 else " + "
            right += (sign if right else sign.strip(" +")) + str(abs(self.offset))
        return f"{'' if self.scale == 1 else f'{self.scale}*'}{self.axis} = {right}"


@dataclass(frozen=True, slots=True)
class Ranged:
    """``left.axis = lo[out] + tap`` where that is below ``hi[out]``; lo and hi grow with out."""

    axis: str
    out: str
    tap: str
    lo: tuple[int, ...]
    hi: tuple[int, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The output axes that the condition names."""
        return (self.out, self.tap)

    def __str__(self) -> str:
        return (
            f"{self.axis} = lo[{self.out}] + {self.tap} "
            f"lo {' '.join(map(str, self.lo))} hi {' '.join(map(str, self.hi))}"
        )


Condition = Affine | Ranged


def equal(axis: str, to: str) -> Affine:
    """``left.axis = to``."""
    return Affine(axis, ((1, to),))


def window(axis: str, tap: str, stride: int = 1, dilation: int = 1, padding: int = 0) -> Affine:
    """``left.axis = stride*axis + dilation*tap - padding``: one axis of a window."""
    return Affine(axis, ((stride, axis), (dilation, tap)), -padding)
