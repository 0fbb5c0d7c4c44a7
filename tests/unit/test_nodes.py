"""Nodes: equal ones are one object, and know what they read."""

from __future__ import annotations

import gc
import pickle

import pytest

from kqo.ir.equations import equal
from kqo.ir.intern import _INTERNED
from kqo.ir.lazy import kept, lazily
from kqo.ir.nodes import OPERATORS, Const, Group, Join, Node, Opaque, Scan, Union
from kqo.ir.region import Changed
from kqo.ir.scalar import V
from kqo.ir.schema import Axis, axes_of, names

AXES = axes_of(c=2, y=3)
X, W, B = Scan("x", AXES), Const("w", axes_of(c=2)), Const("b", axes_of(c=2))
ON = (equal("c", "c"),)


def test_equal_nodes_are_one_object() -> None:
    join = Join(X, W, ON, (), "mul")
    assert join is Join(combine="mul", axes=(), on=ON, right=W, left=Scan("x", AXES))
    assert join is not Join(X, W, ON, (), "add")
    assert pickle.loads(pickle.dumps(join)) is join
    with pytest.raises(TypeError):
        Join(X, W)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        join.combine = "add"  # type: ignore[misc]


def test_a_node_that_nobody_has_is_forgotten() -> None:
    name = "read by nobody"
    made = Group(Scan(name, AXES), ("c",), "sum")
    kept = [key for key in list(_INTERNED) if key[1] == name]
    assert len(kept) == 1
    del made
    gc.collect()
    assert not [key for key in list(_INTERNED) if key[1] == name]


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (X, ()),
        (Join(X, W, (), (), "mul"), (X, W)),
        (Group(X, ("y",), "sum"), (X,)),
        (Union((X, W, X), "c"), (X, W, X)),
        (Opaque((W,), "f", 0, AXES), (W,)),
        (
            OPERATORS["Physical"]("concat", X, W, (), AXES, (), "left", "", V, (B, X), 0),
            (X, W, B, X),
        ),
    ],
)
def test_inputs(node: Node, inputs: tuple[Node, ...]) -> None:
    assert node.inputs == inputs
    assert node.with_inputs(inputs) is node
    others = tuple(Scan(f"other{i}", source.schema) for i, source in enumerate(inputs))
    other = node.with_inputs(others)
    assert other.inputs == others
    assert type(other) is type(node)
    assert other.with_inputs(inputs) is node


def test_the_query_axis_leads_where_an_input_has_it() -> None:
    changed = OPERATORS["Overlay"](X, B, Changed("x"))
    for node in (Join(X, changed, (), (), "mul"), Join(changed, X, (), (), "mul")):
        assert names(node.schema) == ("q", "c", "y")
    assert names(Group(changed, ("y",), "sum").schema) == ("q", "y")
    assert names(OPERATORS["Saved"](X).schema) == ("c", "y")
    assert Union((X, changed), "c").schema == (Axis("q", None), Axis("c", 4), Axis("y", 3))


class Counted:
    """Counts how often it finds out."""

    def __init__(self) -> None:
        self.times = 0

    @lazily
    def found(self) -> int:
        """What is found."""
        self.times += 1
        return self.times


def test_what_is_found_lazily_is_found_once() -> None:
    one, other = Counted(), Counted()
    assert (one.found, one.found, one.times, other.times) == (1, 1, 1, 0)
    assert Counted.found.__doc__ == "What is found."


def test_what_a_function_found_is_kept_by_the_object() -> None:
    asked: list[Node] = []

    def width(node: Node) -> int | None:
        """What it says."""
        asked.append(node)
        return dict(node.schema).get("c")

    def height(node: Node) -> int | None:
        return dict(node.schema).get("y")

    wide, tall = kept(width), kept(height)
    assert [wide(X), tall(X), wide(W), tall(W), wide(X), tall(W)] == [2, 3, 2, None, 2, None]
    assert asked == [X, W]
    assert wide.__doc__ == "What it says."
    assert pickle.loads(pickle.dumps(X)) is X
