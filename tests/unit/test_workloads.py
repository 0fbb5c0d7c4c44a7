import json
import math

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion

from kqo.errors import ArgumentError, KqoError
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Const, Group, Map, Overlay, Saved, Scan, walk
from kqo.ir.plan import Origin, Plan
from kqo.ir.region import Changed
from kqo.ir.scalar import RELU
from kqo.ir.schema import axes_of, has_query
from kqo.workloads import Occlusion, Placed, Regions, changed_inputs, from_dict


def plan_over(scan: Scan) -> Plan:
    return Plan("test", (("out", Group(Map(scan, RELU), ("c",), "sum")),))


def assert_same_boxes(one: Placed, other: Placed):
    for column in ("query", "lo", "hi"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def captum_masks(shape, window, stride):
    """The masks that Captum's own Occlusion uses, row-major."""
    seen = []

    def forward(x):
        seen.extend((x == 0).numpy())
        return x.flatten(1).sum(1)

    CaptumOcclusion(forward).attribute(
        torch.ones((1, *shape)), sliding_window_shapes=window, strides=stride
    )
    masks = seen[1:]  # the first call is the untouched input
    counts = [math.ceil((n - w) / s) + 1 for n, w, s in zip(shape, window, stride, strict=True)]
    # Captum numbers windows with the first axis fastest.
    return [masks[np.ravel_multi_index(index, counts, order="F")] for index in np.ndindex(*counts)]


@pytest.mark.parametrize(
    ("shape", "window", "stride"),
    [
        ((3, 11, 9), (3, 4, 3), (3, 3, 2)),
        ((2, 8, 8), (2, 8, 2), (2, 1, 2)),
        ((4, 7, 5), (2, 3, 3), (2, 2, 1)),
        ((2, 17), (2, 5), (2, 4)),
        ((1, 5, 6, 7), (1, 2, 3, 2), (1, 2, 3, 2)),
    ],
)
def test_grid_and_boxes_are_those_of_captum(shape, window, stride):
    placed = Occlusion(window, stride).resolve(shape)
    expected = captum_masks(shape, window, stride)
    assert len(placed) == len(expected) == math.prod(placed.grid)
    for number, mask in enumerate(expected):
        np.testing.assert_array_equal(placed.mask(number), mask)


def test_a_number_applies_to_every_spatial_axis():
    for shape in ((3, 20), (3, 20, 12), (3, 20, 12, 9)):
        placed = Occlusion(4, 2).resolve(shape)
        assert placed.grid == tuple(-(-(n - 4) // 2) + 1 for n in shape[1:])
        assert (placed.lo[:, 0] == 0).all() and (placed.hi[:, 0] == 3).all()


def test_a_tuple_applies_to_the_last_axes():
    placed = Occlusion((3, 5), (2, 4)).resolve((3, 9, 13))
    assert placed.grid == (4, 3)
    assert Occlusion((5,), (4,)).resolve((3, 9, 13)).grid == (3,)
    assert Occlusion((1, 3, 5), (1, 2, 4)).resolve((3, 9, 13)).grid == (3, 4, 3)
    # What a tuple does not reach is covered whole, as the channels are.
    assert Occlusion((3, 3, 5), 2).resolve((3, 9, 13)).grid == (1, 4, 5)
    assert Occlusion(3, (3, 2, 2)).resolve((3, 9, 13)).grid == (1, 4, 6)


def test_order_is_row_major_with_the_last_axis_fastest():
    starts = Occlusion(2, 2).resolve((1, 4, 6)).starts
    assert starts.tolist() == [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]


def test_the_last_window_is_clipped():
    placed = Occlusion(4, 3).resolve((1, 9, 9))
    assert placed.grid == (3, 3)
    assert placed.hi[-1].tolist() == [1, 9, 9] and placed.lo[-1].tolist() == [0, 6, 6]


def test_stride_above_the_window_leaves_no_empty_window():
    placed = Occlusion(2, 20).resolve((1, 10, 10))
    assert placed.grid == (1, 1)
    for stride in range(1, 12):
        placed = Occlusion(3, stride).resolve((1, 10, 10))
        assert (placed.lo < placed.hi).all()


def test_roi_keeps_the_starts_inside():
    whole = Occlusion(4, 2).resolve((3, 16, 16))
    part = Occlusion(4, 2, roi=((3, 8), (6, 7))).resolve((3, 16, 16))
    assert part.starts.tolist() == [[4, 6], [6, 6]]
    assert part.grid == whole.grid == (7, 7)
    assert part.cells.tolist() == [2 * 7 + 3, 3 * 7 + 3]
    assert Occlusion(4, 2, roi=((0, 2),)).resolve((3, 16, 16)).starts[:, 1].max() == 0


def test_positions_on_the_grid_know_their_cells():
    placed = Occlusion(4, 2, positions=[[4, 6], [0, 0]]).resolve((3, 16, 16))
    assert placed.cells.tolist() == [2 * 7 + 3, 0]
    assert placed.lo[0].tolist() == [0, 4, 6] and placed.hi[0].tolist() == [3, 8, 10]


def test_positions_off_the_grid_have_none_and_are_clipped():
    placed = Occlusion(4, 2, positions=np.array([[15, 1]])).resolve((3, 16, 16))
    assert placed.grid is None and placed.cells is None
    assert placed.hi[0].tolist() == [3, 16, 5]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"window": 0}, "window"),
        ({"window": 1.5}, "window"),
        ({"window": ()}, "window"),
        ({"window": True}, "window"),
        ({"window": (3, -1)}, "window"),
        ({"stride": 0}, "stride"),
        ({"stride": "4"}, "stride"),
        ({"fill": "noise"}, "fill"),
        ({"fill": float("nan")}, "fill"),
        ({"fill": object()}, "fill"),
        ({"positions": [[0.5, 1.0]]}, "positions"),
        ({"positions": [1, 2]}, "positions"),
        ({"positions": np.zeros((0, 2), int)}, "positions"),
        ({"positions": [[1, 2], [3]]}, "positions"),
        ({"roi": (0, 1)}, "roi"),
        ({"roi": ((4, 4),)}, "roi"),
        ({"roi": ((0, 4), (0, 4)), "positions": [[0, 0]]}, "roi"),
        ({"input": -1}, "input"),
        ({"input": None}, "input"),
    ],
)
def test_wrong_values_are_named(arguments, named):
    with pytest.raises(ArgumentError) as error:
        Occlusion(**{"window": 4, "stride": 2, **arguments})
    assert error.value.argument == named
    assert "accepted" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workload", "named"),
    [
        (Occlusion(17, 4), "window"),
        (Occlusion((4, 4, 4, 4), 4), "window"),
        (Occlusion(4, (1, 1, 1, 1)), "stride"),
        (Occlusion((1, 4, 4), 2), "stride"),
        (Occlusion(4, 2, positions=[[0, 0, 0, 0]]), "positions"),
        (Occlusion(4, 2, positions=[[16, 0]]), "positions"),
        (Occlusion(4, 2, positions=[[-1, 0]]), "positions"),
        (Occlusion(4, 2, roi=((13, 16), (0, 3))), "roi"),
        (Occlusion(4, 2, roi=((0, 3),) * 3), "roi"),
        (Occlusion(4, 2, fill=[1.0, 2.0]), "fill"),
        (Occlusion(4, 2, fill=np.zeros((2, 1, 1))), "fill"),
        (Occlusion(4, 2, fill=np.zeros((2, 3, 16, 16))), "fill"),
        (Regions([[((0, 17),)]]), "boxes"),
        (Regions([[((0, 1),) * 4]]), "boxes"),
    ],
)
def test_what_does_not_fit_the_input_is_named(workload, named):
    with pytest.raises(ArgumentError) as error:
        workload.resolve((3, 16, 16))
    assert error.value.argument == named


def test_a_number_needs_a_spatial_axis():
    with pytest.raises(ArgumentError, match="window"):
        Occlusion(2, 2).resolve((8,))
    assert Occlusion((2,), (2,)).resolve((8,)).grid == (4,)


@pytest.mark.parametrize(
    "boxes", [[], [[]], [[((2, 2),)]], [[((-1, 2),)]], [[(0, 2)]], 3, [[((0, 1.5),)]]]
)
def test_wrong_boxes_are_named(boxes):
    with pytest.raises(ArgumentError, match="boxes"):
        Regions(boxes)


def test_occlusion_is_the_same_as_its_regions():
    occlusion = Occlusion(5, 3, fill=[1, 2, 3])
    direct, lowered = (w.resolve((3, 9, 11)) for w in (occlusion, occlusion.regions((3, 9, 11))))
    assert_same_boxes(direct, lowered)


def test_regions_of_several_sizes_add_up():
    small, large = Occlusion(2, 2).regions((1, 4, 4)), Occlusion(3, 1).regions((1, 4, 4))
    placed = (small + large).resolve((1, 4, 4))
    assert len(placed) == 8 and placed.grid is None
    assert [int(placed.mask(n).sum()) for n in range(8)] == [4] * 4 + [9] * 4
    with pytest.raises(ArgumentError):
        small + Occlusion(3, 1, fill=1).regions((1, 4, 4))


def test_several_boxes_per_query():
    placed = Regions([[((0, 2), (0, 2)), ((2, 4), (2, 4))], [((1, 3),)]]).resolve((1, 4, 4))
    assert placed.query.tolist() == [0, 0, 1]
    assert placed.mask(0)[0].astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    assert placed.mask(1)[0, :, 1:3].all() and placed.mask(1).sum() == 8


def test_boxes_are_padded_with_empty_ones():
    workload = Regions([[((0, 2), (0, 2)), ((2, 4), (1, 4))], [((1, 3),)]])
    boxes = workload.resolve((1, 4, 4)).boxes(axes_of(c=1, y=4, x=4))
    assert boxes.axes == ("c", "y", "x")
    assert boxes.filled.tolist() == [[True, True], [True, False]]
    assert boxes.lo[0, 1].tolist() == [0, 2, 1] and boxes.hi[0, 1].tolist() == [1, 4, 4]


def test_lattices():
    assert Occlusion(4, 2).resolve((3, 16, 12)).lattice() == ((7, 5), (0, 0), (2, 2))
    part = Occlusion(4, 2, roi=((3, 8), (6, 7))).resolve((3, 16, 16))
    assert part.lattice() == ((2, 1), (4, 6), (2, 1))
    for starts in ([[0, 0], [1, 1]], [[0, 1], [0, 0]], [[0, 0], [0, 1], [0, 3]]):
        assert Occlusion(4, 2, positions=starts).resolve((3, 16, 16)).lattice() is None


def test_take_keeps_boxes_with_their_queries():
    placed = Regions([[((0, 1),), ((2, 3),)], [((1, 2),)], [((3, 4),), ((0, 2),)]]).resolve((1, 4))
    part = placed.take(np.array([2, 0]))
    assert len(part) == 2 and part.query.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(part.mask(0), placed.mask(2))
    np.testing.assert_array_equal(part.mask(1), placed.mask(0))


def test_apply_puts_the_overlay_under_every_reader():
    scan = Scan("image", axes_of(c=3, y=8, x=8))
    saved = Saved(Map(scan, RELU))
    root = Group(Map(scan, RELU), ("c",), "sum")
    origin = Origin("layer", "relu")
    plan = Plan("p", (("out", root), ("kept", saved)), {}, {root: origin})
    found = Occlusion(4, 2, fill=0.5).apply(plan)
    new = dict(found.roots)
    assert new["kept"] is saved
    overlay = new["out"].input.input
    assert isinstance(overlay, Overlay) and overlay.base is scan
    assert overlay.at == Changed("image") and has_query(new["out"].schema)
    assert overlay.patch.schema == () and float(found.constants[overlay.patch.name]) == 0.5
    assert found.origins[new["out"]] == origin


@pytest.mark.parametrize(
    ("fill", "axes"),
    [
        (np.ones(3), "c"),
        ([0.1, 0.2, 0.3], "c"),
        (np.ones((3, 1, 1)), "c"),
        (np.ones((8, 6)), "yx"),
        (np.ones((1, 3, 8, 6)), "cyx"),
        (np.ones((3, 8, 1)), "cy"),
        (np.ones((1, 1, 1)), ""),
        (np.ones(1), ""),
    ],
)
def test_an_array_fill_lacks_the_axes_it_does_not_vary_along(fill, axes):
    plan = Occlusion(4, 2, fill=fill).apply(plan_over(Scan("image", axes_of(c=3, y=8, x=6))))
    (patch,) = (n.patch for n in plan.nodes() if isinstance(n, Overlay))
    assert "".join(a.name for a in patch.schema) == axes
    assert plan.constants[patch.name].size == np.asarray(fill).size
    assert plan.constants[patch.name].shape == tuple(a.extent for a in patch.schema)


def test_fill_constants_have_names_of_their_own():
    scan = Scan("image", axes_of(c=3, y=8, x=8))
    taken = Const("fill", axes_of(c=3))
    plan = Plan("p", (("a", scan), ("b", taken)), {"fill": np.zeros(3, np.float32)})
    found = Occlusion(4, 2, fill=7).apply(plan)
    assert float(found.constants["fill_1"]) == 7 and found.constants["fill"].shape == (3,)


def test_the_input_is_found_by_number_and_name():
    first, second = (Scan(name, axes_of(c=2, y=4, x=4)) for name in ("left", "right"))
    plan = Plan("p", (("a", first), ("b", second)))
    for which in (1, "right"):
        found = Occlusion(2, 2, input=which).apply(plan)
        assert dict(found.roots)["a"] is first and isinstance(dict(found.roots)["b"], Overlay)
    for wrong in (2, "middle"):
        with pytest.raises(ArgumentError, match=r"0 \(left\), 1 \(right\)"):
            Occlusion(2, 2, input=wrong).apply(plan)


def test_named_fills_are_plans_over_the_untouched_image():
    scan = Scan("image", axes_of(c=2, y=5, x=4))
    for fill in ("mean", "blur"):
        plan = Occlusion(2, 2, fill=fill).apply(plan_over(scan))
        (patch,) = (n.patch for n in plan.nodes() if isinstance(n, Overlay))
        assert not has_query(patch.schema) and scan in set(walk(patch))
        assert {n.name for n in walk(patch) if isinstance(n, Const)} <= set(plan.constants)


@pytest.mark.parametrize("fill", ["mean", "blur", 0.5, [0.1, 0.2], np.arange(20.0).reshape(5, 4)])
def test_plans_and_written_out_inputs_agree(fill):
    """The overlay, by the reference interpreter, holds the inputs that re-inference is given."""
    scan = Scan("image", axes_of(c=2, y=5, x=4))
    workload = Occlusion(2, 2, fill=fill)
    image = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    plan = workload.apply(Plan("p", (("out", scan),)))
    placed = workload.resolve(image.shape)
    numbers = np.arange(len(placed))
    expected = changed_inputs(workload, image, numbers)
    boxes = [
        [tuple(zip(placed.lo[n].tolist(), placed.hi[n].tolist(), strict=True))] for n in numbers
    ]
    found = interpret(plan, {"image": image}, {"image": boxes})["out"]
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), expected, atol=1e-6)
    assert (expected != image).any()


@pytest.mark.parametrize(
    "workload",
    [
        Occlusion(4, 2),
        Occlusion((3, 4, 4), (3, 2, 2), fill="mean", roi=((0, 4), (2, 9))),
        Occlusion(4, 2, fill=np.arange(3.0), positions=[[1, 2], [3, 4]], input="image"),
        Regions([[((0, 2), (0, 2)), ((2, 4), (2, 4))], [((1, 3),)]], fill=0.25, input=1),
    ],
)
def test_workloads_survive_json(workload):
    found = from_dict(json.loads(json.dumps(workload.to_dict())))
    assert found == workload and hash(found) == hash(workload)
    assert found != Occlusion(3, 1)
    shape = (3, 12, 12)
    assert_same_boxes(found.resolve(shape), workload.resolve(shape))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "stream"},
        {"kind": "occlusion", "window": 4},
        {"kind": "occlusion", "window": 4, "stride": 2, "colour": 1},
        {"kind": "occlusion", "window": 4, "stride": 2, "fill": {"dtype": "<f4", "shape": [3]}},
        {
            "kind": "occlusion",
            "window": 4,
            "stride": 2,
            "fill": {"dtype": "O", "shape": [], "data": ""},
        },
    ],
)
def test_damaged_descriptions_are_errors(values):
    with pytest.raises(KqoError):
        from_dict(values)
