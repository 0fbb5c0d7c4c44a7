"""The reference interpreter against torch, on operators built by hand, and against small cases."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kqo.errors import ArgumentError, PlanError
from kqo.ir.equations import Affine, Ranged, window
from kqo.ir.interpret import interpret
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Opaque,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.plan import Plan
from kqo.ir.region import Changed, Clip, Everything, Image, Shift
from kqo.ir.scalar import RELU, V, Var, call
from kqo.ir.schema import axes_of
from tests.unit import nets

RNG = np.random.default_rng(7)
IMAGE = Scan("image", nets.image(3, 8, 7))


def values(*shape):
    return RNG.standard_normal(shape)


def run(node, image, constants=None, **options):
    plan = Plan("t", (("out", node),), constants or {})
    return interpret(plan, {"image": image}, **options)["out"]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted.numpy()[0], rtol=1e-12, atol=1e-12)


def batch(array):
    return torch.from_numpy(np.asarray(array))[None]


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, 1), (3, 2, 4)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolution(rank, stride, dilation, padding):
    x, w = values(2, *[6] * rank), values(3, 2, *[2] * rank)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    wanted = function(
        batch(x), torch.from_numpy(w), stride=stride, dilation=dilation, padding=padding
    )
    source = Scan("image", nets.image(2, *[6] * rank))
    node = nets.conv(
        source, "w", 3, 2, wanted.shape[-1], stride=stride, dilation=dilation, padding=padding,
        axes="zyx"[-rank:],
    )  # fmt: skip
    close(run(node, x, {"w": w}), wanted)


def test_grouped_convolution():
    x, w = values(4, 5, 5), values(6, 2, 3, 3)
    node = nets.conv(Scan("image", nets.image(4, 5, 5)), "w", 6, 3, 5, padding=1, groups=2)
    wanted = F.conv2d(batch(x), torch.from_numpy(w), padding=1, groups=2)
    close(run(node, x, {"w": w.reshape(2, 3, 2, 3, 3)}), wanted)


def test_depthwise_convolution():
    x, w = values(3, 8, 7), values(3, 1, 3, 3)
    weight = Const("w", axes_of(c=3, ky=3, kx=3))
    on = (window("y", "ky", 1, 1, 1), window("x", "kx", 1, 1, 1))
    node = Group(Join(IMAGE, weight, on, axes_of(y=8, x=7), "mul"), ("c", "y", "x"), "sum")
    wanted = F.conv2d(batch(x), torch.from_numpy(w), padding=1, groups=3)
    close(run(node, x, {"w": w[:, 0]}), wanted)


def test_transposed_convolution():
    x, w = values(2, 5), values(2, 3, 4)
    wanted = F.conv_transpose1d(batch(x), torch.from_numpy(w), stride=3, padding=1)
    read = Affine("x", ((1, "x"), (-1, "kx")), 1, scale=3)
    weight = Const("w", axes_of(i=2, c=3, kx=4))
    on = (Affine("c", ((1, "i"),)), read)
    joined = Join(Scan("image", nets.image(2, 5)), weight, on, axes_of(x=wanted.shape[-1]), "mul")
    close(run(Group(joined, ("c", "x"), "sum"), x, {"w": w}), wanted)


def test_pooling():
    x = values(3, 8, 7)
    close(
        run(nets.pool(nets.pool(IMAGE, 3, 4, "max", stride=2, padding=1), 2, 3, "sum"), x) / 4,
        F.avg_pool2d(F.max_pool2d(batch(x), 3, 2, 1), 2, 1)[..., :3, :3],
    )
    square = Scan("image", nets.image(3, 7, 7))
    node = nets.pool(square, 3, 4, "mean", stride=2, padding=1)
    wanted = F.avg_pool2d(batch(x[:, :7]), 3, 2, 1, count_include_pad=False)
    close(run(node, x[:, :7]), wanted)


def test_adaptive_pooling():
    x = values(3, 7)
    lo = tuple(7 * i // 3 for i in range(3))
    hi = tuple(-(-7 * (i + 1) // 3) for i in range(3))
    joined = Join(
        Scan("image", nets.image(3, 7)), Domain(axes_of(kx=4)), (Ranged("x", "x", "kx", lo, hi),),
        axes_of(x=3), "left",
    )  # fmt: skip
    close(run(Group(joined, ("c", "x"), "mean"), x), F.adaptive_avg_pool1d(batch(x), 3))
    close(run(Group(joined, ("c", "x"), "max"), x), F.adaptive_max_pool1d(batch(x), 3))


def test_batch_norm_relu_linear_softmax():
    x = values(3, 8, 7)
    mean, var, weight, bias = values(3), values(3) ** 2, values(3), values(3)
    w, b = values(5, 168), values(5)
    constants = {
        "bn.mean": mean, "bn.var": var, "bn.weight": weight, "bn.bias": bias,
        "fc.weight": w, "fc.bias": b,
    }  # fmt: skip
    node = nets.flatten(nets.relu(nets.batch_norm(IMAGE, "bn")))
    node = nets.softmax(nets.linear(node, "fc", 5))
    t = torch.from_numpy
    wanted = F.relu(F.batch_norm(batch(x), t(mean), t(var), t(weight), t(bias)))
    wanted = F.softmax(F.linear(wanted.flatten(1), t(w), t(b)), 1)
    close(run(node, x, constants), wanted)


def test_broadcast_union_and_transpose():
    x = values(3, 8, 7)
    gate = Group(IMAGE, ("c",), "mean")
    gated = Join(IMAGE, gate, (), (), "mul")
    both = Union((gated, IMAGE, gated), "c")
    turned = Rekey(both, ("x", "c", "y"), axes_of(c=7, y=9, x=8))
    wanted = batch(x) * batch(x).mean((2, 3), keepdim=True)
    wanted = torch.cat([wanted, batch(x), wanted], 1).permute(0, 3, 1, 2)
    close(run(turned, x), wanted)


@pytest.mark.parametrize(
    ("fn", "wanted"),
    [
        (call("tanh", V), torch.tanh),
        (call("sigmoid", V), torch.sigmoid),
        (call("erf", V), torch.erf),
        (call("floor", V), torch.floor),
        (call("round", V), torch.round),
        (call("where", call("gt", V, 0.0), V, call("mul", V, 0.5)), lambda x: F.leaky_relu(x, 0.5)),
        (call("when", V, call("gt", V, 0.0)), lambda x: torch.where(x > 0, x, -torch.inf)),
        (call("sign", V), lambda x: torch.where(x.isnan(), x, torch.sign(x))),
        (call("rsqrt", V), torch.rsqrt),
        (call("div", 1.0, V), torch.reciprocal),
        (call("pow", V, -3.0), lambda x: x**-3.0),
        (call("log1p", V), torch.log1p),
        (call("atan", V), torch.atan),
        (call("fmod", V, 0.75), lambda x: torch.fmod(x, 0.75)),
        (call("fmod", 2.5, V), lambda x: torch.fmod(torch.tensor(2.5, dtype=x.dtype), x)),
    ],
)
def test_functions(fn, wanted):
    x = np.concatenate([values(9), [0.0, -1.0, 2.5, 3.5, np.inf, -np.inf, np.nan]])
    node = Map(Scan("image", axes_of(x=16)), fn)
    np.testing.assert_allclose(run(node, x), wanted(torch.from_numpy(x)).numpy(), rtol=1e-13)


def test_identities_of_empty_groups():
    far = Join(
        Scan("image", axes_of(x=2)),
        Domain(()),
        (Affine("x", ((1, "x"),), 1),),
        axes_of(x=2),
        "left",
    )
    x = np.array([3.0, 4.0])
    found = {agg: run(Group(far, ("x",), agg), x).tolist() for agg in ("sum", "max", "min")}
    assert found == {"sum": [4.0, 0.0], "max": [4.0, -np.inf], "min": [4.0, np.inf]}
    assert np.isnan(run(Group(far, ("x",), "mean"), x)[1])


def test_exact_rationals():
    third = Map(Group(Scan("image", axes_of(x=3)), (), "mean"), call("div", V, 3.0))
    found = run(third, np.array([1.0, 1.0, 2.0]), exact=True)
    assert found[()] == Fraction(4, 9)
    tops = Group(Slice(Scan("image", axes_of(x=3)), Everything(axes_of(x=3))), (), "max")
    assert run(tops, np.array([1.0, np.inf, 0.5]), exact=True)[()] == np.inf


def overlaid(node_of, x, boxes, constants, fill):
    """The delta plan's own operands: an overlay of the image, and the operator above it."""
    over = Overlay(IMAGE, Const("fill", axes_of(c=3)), Changed("image"))
    return run(node_of(over), x, {**constants, "fill": fill}, regions={"image": boxes})


BOXES = [[((0, 3), (0, 2), (3, 5))], [], [((0, 3), (6, 8), (5, 7)), ((0, 3), (0, 1), (0, 1))]]


def test_overlay_is_full_inference_on_changed_images():
    x, w, fill = values(3, 8, 7), values(4, 3, 3, 3), values(3)
    found = overlaid(lambda n: nets.conv(n, "w", 4, 3, 7, padding=1), x, BOXES, {"w": w}, fill)
    assert found.shape == (3, 4, 7, 7)
    for query, boxes in enumerate(BOXES):
        changed = x.copy()
        for _, (y0, y1), (x0, x1) in boxes:
            changed[:, y0:y1, x0:x1] = fill[:, None, None]
        wanted = F.conv2d(batch(changed), torch.from_numpy(w), padding=1)[:, :, :7, :7]
        close(found[query], wanted)


def test_delta_overlay_equals_the_operator():
    x, w, fill = values(3, 8, 7), values(4, 3, 3, 3), values(3)

    def delta(over):
        full = nets.conv(over, "w", 4, 3, 7, padding=1, stride=1)
        joined = full.input
        taps = tuple(a for a in joined.schema if a.name in ("i", "ky", "kx"))
        at = Image(over.at, joined.on, taps, full.schema[1:])
        old = Saved(nets.conv(over.base, "w", 4, 3, 7, padding=1, stride=1))
        return Overlay(old, Slice(full, at), at)

    found = overlaid(delta, x, BOXES, {"w": w}, fill)
    wanted = overlaid(lambda n: nets.conv(n, "w", 4, 3, 7, padding=1), x, BOXES, {"w": w}, fill)
    np.testing.assert_array_equal(found, wanted)


def test_a_region_that_is_too_small_shows():
    tight = Clip(Changed("image"), 0.25, IMAGE.axes)
    found = overlaid(
        lambda n: Overlay(Map(n.base, V), Slice(Map(n, V), tight), n.at),
        values(3, 8, 7), [[((0, 3), (0, 6), (0, 7))]], {}, values(3),
    )  # fmt: skip
    assert np.isnan(found).any()


def test_slice_gives_absent_tuples():
    part = Slice(Overlay(IMAGE, Const("fill", axes_of(c=3)), Changed("image")), Changed("image"))
    total = Group(Map(part, call("mul", V, 0.0)), ("c",), "mean")
    found = run(total, values(3, 8, 7), {"fill": values(3)}, regions={"image": BOXES})
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()


def test_physical_operators_mean_their_join_and_group():
    x, w, b = values(3, 8, 7), values(4, 3, 3, 3), values(4)
    constants = {"w": w, "b": b}
    conv = nets.conv(IMAGE, "w", 4, 3, 7, padding=1)
    joined = conv.input
    bias = Const("b", axes_of(c=4))
    wanted = Map(Join(conv, bias, (), (), "add"), RELU)
    tail = call("max", call("add", V, Var("a0")), 0.0)
    physical = Physical(
        "gemm", joined.left, joined.right, joined.on, joined.axes, conv.by, "mul", "sum", tail,
        (bias,), 0,
    )  # fmt: skip
    np.testing.assert_allclose(run(physical, x, constants), run(wanted, x, constants), rtol=1e-14)
    rows = Physical(
        "rows", conv, Domain(()), (), conv.schema, ("c", "y", "x"), "left", "", tail, (bias,), 0
    )
    np.testing.assert_allclose(run(rows, x, constants), run(wanted, x, constants), rtol=1e-14)


def test_a_physical_concatenation_is_a_union():
    x = values(3, 8, 7)
    other = Map(IMAGE, RELU)
    node = Physical(
        "concat", IMAGE, Domain(()), (), axes_of(c=9, y=8, x=7), (), "left", "",
        call("neg", V), (other, IMAGE), 0,
    )  # fmt: skip
    found = run(node, x)
    np.testing.assert_array_equal(found, -np.concatenate([x, np.maximum(x, 0), x]))


def test_shifted_region():
    axes = axes_of(c=5)
    node = Overlay(
        Union((Scan("image", axes_of(c=2)), Const("k", axes_of(c=3))), "c"),
        Const("one", ()), Shift(Changed("image"), "c", 2, axes),
    )  # fmt: skip
    found = run(
        node, np.array([5.0, 6.0]), {"k": np.array([7.0, 8.0, 9.0]), "one": np.array(1.0)},
        regions={"image": [[((1, 2),)]]},
    )  # fmt: skip
    assert found.tolist() == [[5.0, 6.0, 7.0, 1.0, 9.0]]


def test_opaque():
    node = Opaque((IMAGE, IMAGE), "softsign", 1, IMAGE.axes)
    x = values(3, 8, 7)
    with pytest.raises(PlanError, match="softsign"):
        run(node, x)
    found = run(node, x, opaque={"softsign": lambda a, b: (a, a + 2 * b)})
    np.testing.assert_allclose(found, 3 * x)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"\(3, 8, 7\)"):
        run(IMAGE, values(3, 7, 7))
    with pytest.raises(ArgumentError, match="values for image"):
        interpret(Plan("t", (("out", IMAGE),)), {})
    with pytest.raises(ArgumentError, match="one \\(lo, hi\\)"):
        run(IMAGE, values(3, 8, 7), regions={"image": [[((0, 1),)]]})
    with pytest.raises(PlanError, match="no boxes are given"):
        over = Overlay(IMAGE, Const("fill", ()), Changed("image"))
        run(over, values(3, 8, 7), {"fill": np.zeros(())})
