"""Usual operators as joins and groups, built by hand, for comparisons with torch."""

from __future__ import annotations

from kqo.ir.equations import Affine, Condition, equal, window
from kqo.ir.nodes import Const, Domain, Group, Join, Map, Node, Rekey
from kqo.ir.scalar import Call, Num, Var, call
from kqo.ir.schema import Axes, axes_of, extent_of

V = Var("v")


def conv(
    source: Node,
    name: str,
    channels: int,
    kernel: int,
    out: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
    axes: str = "yx",
    groups: int = 1,
) -> Node:
    """A convolution; its kernel constant has shape (c, i, k...), or (g, c, i, k...) in groups."""
    inner = extent_of(source.schema, "c") // groups
    taps = {f"k{axis}": kernel for axis in axes}
    on: list[Condition] = [window(axis, f"k{axis}", stride, dilation, padding) for axis in axes]
    declared = axes_of(**dict.fromkeys(axes, out))
    if groups == 1:
        weight = Const(name, axes_of(c=channels, i=inner, **taps))
        joined = Join(source, weight, (equal("c", "i"), *on), declared, "mul")
        return Group(joined, ("c", *axes), "sum")
    weight = Const(name, axes_of(g=groups, c=channels // groups, i=inner, **taps))
    read = Affine("c", ((inner, "g"), (1, "i")))
    joined = Join(source, weight, (read, *on), declared, "mul")
    grouped = Group(joined, ("g", "c", *axes), "sum")
    return Rekey(grouped, ("g", "c", *axes), (*axes_of(c=channels), *declared))


def pool(
    source: Node,
    kernel: int,
    out: int,
    agg: str,
    *,
    stride: int = 1,
    padding: int = 0,
    axes: str = "yx",
) -> Node:
    taps = Domain(axes_of(**{f"k{axis}": kernel for axis in axes}))
    on = tuple(window(axis, f"k{axis}", stride, 1, padding) for axis in axes)
    joined = Join(source, taps, on, axes_of(**dict.fromkeys(axes, out)), "left")
    return Group(joined, ("c", *axes), agg)


def batch_norm(source: Node, name: str, eps: float = 1e-5) -> Node:
    axes = axes_of(c=extent_of(source.schema, "c"))

    def const(what: str) -> Node:
        return Const(f"{name}.{what}", axes)

    centred = Join(source, const("mean"), (), (), "sub")
    scale = Map(const("var"), call("rsqrt", call("add", V, eps)))
    scaled = Join(centred, scale, (), (), "mul")
    return Join(Join(scaled, const("weight"), (), (), "mul"), const("bias"), (), (), "add")


def relu(source: Node) -> Node:
    return Map(source, Call("max", (V, Num(0.0))))


def linear(source: Node, name: str, out: int) -> Node:
    weight = Const(f"{name}.weight", axes_of(c=out, i=extent_of(source.schema, "c")))
    joined = Join(source, weight, (equal("c", "i"),), (), "mul")
    bias = Const(f"{name}.bias", axes_of(c=out))
    return Join(Group(joined, ("c",), "sum"), bias, (), (), "add")


def softmax(source: Node, by: tuple[str, ...] = ()) -> Node:
    top = Group(source, by, "max")
    powers = Map(Join(source, top, (), (), "sub"), call("exp", V))
    return Join(powers, Group(powers, by, "sum"), (), (), "div")


def flatten(source: Node, order: tuple[str, ...] = ("c", "y", "x")) -> Node:
    total = 1
    for name in order:
        total *= extent_of(source.schema, name)
    return Rekey(source, order, axes_of(c=total))


def image(*extents: int) -> Axes:
    names = {2: "cx", 3: "cyx", 4: "czyx"}[len(extents)]
    return axes_of(**dict(zip(names, extents, strict=True)))
