"""Epilogues as NumPy statements: a scalar expression becomes a few ufunc calls with ``out=``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from kqo.ir.scalar import Call, Expr, Num, Var, variables
from kqo.planner.cost import FILLED

UFUNCS = {
    "add": "np.add",
    "sub": "np.subtract",
    "mul": "np.multiply",
    "div": "np.divide",
    "max": "np.maximum",
    "min": "np.minimum",
    "neg": "np.negative",
    "abs": "np.abs",
    "sign": "np.sign",
    "floor": "np.floor",
    "ceil": "np.ceil",
    "round": "np.rint",
    "gt": "np.greater",
    "ge": "np.greater_equal",
    "eq": "np.equal",
    "exp": "np.exp",
    "log": "np.log",
    "log1p": "np.log1p",
    "sqrt": "np.sqrt",
    "rsqrt": "rsqrt",
    "pow": "np.power",
    "tanh": "np.tanh",
    "sigmoid": "sigmoid",
    "erf": "erf",
    "sin": "np.sin",
    "cos": "np.cos",
    "atan": "np.arctan",
    "fmod": "np.fmod",
    "when": "when",
    "where": "where",
}
HELPERS = ("rsqrt", "sigmoid", "erf", "when", "where")
MADE = {"erf": 4, "when": 2, "where": 2}
"""Arrays of the size of its result that a function of kqo.runtime.functions makes meanwhile."""


class TailArrays(NamedTuple):
    """Scratch that the statements of an epilogue take, in arrays of the shape of ``t``.

    Attributes:
        temps: arrays for values in between.
        filled: numbers of which there is an array each.
        made: arrays that functions make for the time of a call.
    """

    temps: int
    filled: frozenset[float]
    made: int


@dataclass
class _Tail:
    repeated: frozenset[Expr]
    lines: list[str] = field(default_factory=list)
    temps: int = 0
    filled: set[float] = field(default_factory=set)
    known: dict[Expr, str] = field(default_factory=dict)

    def temp(self) -> str:
        self.temps += 1
        name = f"u{self.temps}"
        self.lines.append(f'{name} = w.temp("{name}", t)')
        return name

    def emit(self, expr: Expr, into: str, value: str) -> str:
        """Statements for the expression; returns the name that holds it."""
        if isinstance(expr, Var):
            return value if expr.name == "v" else expr.name
        if isinstance(expr, Num):
            return _number(expr.value)
        if expr in self.known:
            return self.known[expr]
        if expr in self.repeated:
            into = self.temp()
            self.known[expr] = into
        on_path = [isinstance(a, Call) for a in expr.args]
        args = []
        free = into
        for arg, nested in zip(expr.args, on_path, strict=True):
            if not nested:
                given = self.emit(arg, "", value)
                if isinstance(arg, Num) and expr.fn in FILLED:
                    self.filled.add(arg.value)
                    given = f"w.filled({given}, t)"
                args.append(given)
                continue
            # Writing into t is safe as long as no argument still to come reads v from it.
            shared = arg in self.repeated
            safe = bool(free) and not shared and not self._clobbers(expr, arg, value, free)
            target = "" if shared else free if safe else self.temp()
            if safe:
                free = ""
            args.append(self.emit(arg, target, value))
        self.lines.append(f"{UFUNCS[expr.fn]}({', '.join(args)}, out={into})")
        return into

    @staticmethod
    def _clobbers(expr: Call, arg: Expr, value: str, into: str) -> bool:
        if value != into:
            return False
        others = [a for a in expr.args if a is not arg]
        return any("v" in variables(a) for a in others) or _uses(arg) > 1


def _uses(expr: Expr) -> int:
    if isinstance(expr, Var):
        return int(expr.name == "v")
    if isinstance(expr, Call):
        return sum(_uses(a) for a in expr.args)
    return 0


def _calls(expr: Expr) -> list[Call]:
    if not isinstance(expr, Call):
        return []
    return [expr, *(found for arg in expr.args for found in _calls(arg))]


def _number(value: float) -> str:
    if value != value:
        return "np.nan"
    if value in (float("inf"), float("-inf")):
        return "np.inf" if value > 0 else "-np.inf"
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def tail_lines(tail: Expr, value: str = "t") -> list[str]:
    """Statements that leave the epilogue's value in ``t``.

    Args:
        tail: expression over ``v`` and the operands ``a0``, ``a1``, ...
        value: the name that holds v: ``t`` itself, which may then be overwritten, or another array,
            which is only read.
    """
    return _emitted(tail, value).lines


@lru_cache(maxsize=512)
def tail_arrays(tail: Expr, value: str = "t") -> TailArrays:
    """What the statements of :func:`tail_lines` take beside ``t``."""
    state = _emitted(tail, value)
    made = max((MADE.get(e.fn, 0) for e in _calls(tail)), default=0)
    return TailArrays(state.temps, frozenset(state.filled), made)


def _emitted(tail: Expr, value: str) -> _Tail:
    counts = Counter(_calls(tail))
    state = _Tail(frozenset[Expr](e for e, count in counts.items() if count > 1))
    result = state.emit(tail, "t", value)
    if result != "t":
        state.lines.append(f"np.copyto(t, {result})")
    return state


def helpers_in(lines: list[str]) -> set[str]:
    """Which functions of kqo.runtime.functions the statements call."""
    return {h for h in HELPERS if any(line.startswith(h + "(") for line in lines)}
