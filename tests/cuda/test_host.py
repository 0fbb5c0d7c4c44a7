"""Emitted CUDA, run on the processor under a shim, gives what the NumPy engine gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.emit.cuda_grouped import merged
from kqo.errors import ArgumentError, DeviceError
from kqo.ir.scalar import V
from kqo.ir.winograd import SIZES
from kqo.lang.ruleset import rules_for
from kqo.options import PRECISIONS
from kqo.runtime.cuda.engine import SHARE, CudaEngine
from kqo.runtime.cuda.target import on_gpu
from kqo.runtime.timing import Timings
from tests import models
from tests.cuda.host import HostDevice, has_compiler
from tests.cuda.planned import SMALL_ZOO, Case, Everything, Flattened, everything, small
from tests.unit.lowering import noise

pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs g++")
EXACT = 1e-5  # the stated tolerance: both engines round, in different orders
RULES = {"WinogradProductBy2": 2, "WinogradProduct": 4, "WinogradProductBy6": 6}
QUICK = ("efficientnet", "regnet", "unet", "volume", "fusion")
"""Models each of which has what the others lack: gates, groups, resizing, axes, inputs."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def case() -> Case:
    return everything()


def reference_engine(case: Case, device: HostDevice, **options) -> CudaEngine:
    """The plan by a processor's rates, which prefer Winograd."""
    plan = case.compiled.physical
    return CudaEngine(plan, case.changed, device=device, **options)


@pytest.mark.parametrize("capability", [70, 80])
def test_every_form_equals_numpy(case, folder, capability):
    engine = reference_engine(case, HostDevice(folder, capability), batch=20)
    forms = {step.form for step in engine.plan.steps}
    assert {"gather_gemm", "winograd", "taps", "concat", "patch"} <= forms
    assert len(range(0, engine.queries, engine.batch)) > 2
    assert case.error(engine) < EXACT


@pytest.mark.parametrize(
    ("precision", "capability"), [("tf32", 80), ("tf32", 70), ("float16", 80), ("float16", 70)]
)
def test_tensor_cores_keep_their_tolerance(case, folder, precision, capability):
    error = case.error(case.engine(HostDevice(folder, capability), precision))
    rounded = precision == "float16" or capability >= 80
    assert (EXACT if rounded else 0) < error < (PRECISIONS[precision] if rounded else EXACT)


@pytest.mark.parametrize("name", QUICK)
def test_model_equals_numpy(name, folder):
    found = small(name)
    assert found.error(found.engine(HostDevice(folder))) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL_ZOO, *(n for n in models.MODELS if n not in QUICK)])
def test_other_model_equals_numpy(name, folder):
    found = small(name)
    assert found.error(found.engine(HostDevice(folder))) < EXACT
    assert found.error(reference_engine(found, HostDevice(folder))) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "float16"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "inception_v3"])
def test_model_keeps_the_tolerance_of_a_precision(name, precision, folder):
    found = small(name)
    assert EXACT < found.error(found.engine(HostDevice(folder), precision)) < PRECISIONS[precision]


class Windows(nn.Module):
    """Windows that minimal filtering takes, along one axis and along two."""

    def __init__(self, taps: tuple[int, int]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            padding = (taps[0] // 2, taps[1] // 2)
            self.first = nn.Conv2d(3, 5, taps, padding=padding)
            self.second = nn.Conv2d(5, 6, taps, padding=padding)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).mean((2, 3))


@pytest.mark.parametrize(
    ("rule", "taps"),
    [
        (rule, taps)
        for rule, tile in RULES.items()
        for taps in [(3, 3), (1, 7), (5, 1), (5, 5)]
        if all(extent == 1 or (tile, extent) in SIZES for extent in taps)
    ],
)
def test_minimal_filtering_of_every_size(folder, rule, taps):
    case = Case(Windows(taps).eval(), ((3, 11, 13),), 3)
    rules = rules_for(kqo.Options())
    others = {n for n in rules.names() if n.startswith("Winograd") and n != rule}
    case.compiled = case.compiled._without((*others, "GatherProduct"))
    engine = reference_engine(case, HostDevice(folder))
    assert any(step.form == "winograd" for step in engine.plan.steps)
    assert case.error(engine) < EXACT


def test_a_global_mean_starts_from_the_sum_of_the_view(case, folder):
    device = HostDevice(folder)
    engine = case.engine(device)
    assert any("sums" in launch.kernel for launch in engine.program.views)
    assert case.error(engine) < EXACT


def test_a_sum_that_is_not_finite_is_taken_anew(folder):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    case = Case(model, ((1, 6, 6),), 2)
    case.inputs[0][0, 1, 1] = float("inf")
    got = case.engine(HostDevice(folder)).run(case.arrays)
    with_numpy = case.compiled.run(case.inputs[0])
    whole = with_numpy.originals["output"][None]
    want = {"output": np.concatenate([with_numpy.outputs["output"], whole])}
    assert np.isfinite(want["output"]).any() and not np.isfinite(want["output"]).all()
    np.testing.assert_allclose(got["output"], want["output"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_any_batch_gives_the_same(case, folder, batch):
    engine = case.engine(HostDevice(folder), batch=batch)
    assert case.error(engine) < EXACT


def test_a_second_input_reuses_memory_and_launches(case, folder):
    engine = case.engine(HostDevice(folder), batch=16)
    first = engine.run(case.arrays)
    name = next(iter(case.arrays))
    engine.run({name: case.arrays[name][:, ::-1].copy()})
    again = engine.run(case.arrays)
    assert all(np.array_equal(first[n], again[n]) for n in first)


class Narrow(HostDevice):
    """Has memory for batches of up to four queries: it refuses the first launch of larger ones."""

    def launch(self, function, grid, threads, shared, args):
        if function.__name__ == "run_bind_rows" and grid[0] > 6:
            raise MemoryError
        super().launch(function, grid, threads, shared, args)


@pytest.mark.parametrize("ask", ["run", "analyze", "prepare"])
def test_out_of_memory_halves_the_batch_and_goes_on(case, folder, ask):
    engine = case.engine(Narrow(folder), batch=50)
    if ask == "prepare":
        engine.prepare()
    elif ask == "analyze":
        assert {t.kernel for t in engine.analyze(case.arrays)} >= {"bind_rows"}
    else:
        assert case.error(engine) < EXACT
    assert engine.batch == 4  # 50, 25, 13, 7, 4


def test_results_stay_on_the_device_where_there_is_memory_for_a_copy(case, folder):
    class Array(np.ndarray):
        """An array of the device."""

        def copy(self):
            if self.full:
                raise MemoryError
            return np.array(self, subok=True)

    class Xp:
        """NumPy, whose results are arrays of the device."""

        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, full, dtype):
            return np.empty(full, dtype=dtype).view(Array)

    device = HostDevice(folder)
    device.xp, device.numpy = Xp(), np.array
    engine = case.engine(device)
    want = case.expected()["output"]
    for full, kind in ((False, Array), (True, np.ndarray)):
        Array.full = full
        found = engine.run(case.arrays, on_device=True)["output"]
        assert type(found) is kind
        np.testing.assert_allclose(found, want, atol=EXACT * np.abs(want).max())


def test_results_are_counted_among_what_memory_holds(case, folder):
    engine = case.engine(HostDevice(folder))
    assert engine.result_bytes == 4 * engine.queries * 7
    sizes = []
    for extra in (0, 2 * engine.result_bytes):
        device = HostDevice(folder)
        constants = sum(c.nbytes for c in engine.program.constants.values())
        device.free = constants + extra + int(engine.bytes_at(engine.queries) / SHARE) + 4
        sizes.append(case.engine(device).batch)
    assert sizes[0] < sizes[1] == engine.queries


def test_a_plan_that_never_fits_says_so(case, folder):
    class Full(HostDevice):
        def load(self, kernels):
            raise MemoryError

    with pytest.raises(DeviceError, match="one query does not fit the memory of host"):
        case.engine(Full(folder), batch=4).run(case.arrays)


def test_the_batch_follows_free_memory(case, folder):
    device = HostDevice(folder)
    sizes = []
    for free in (1 << 20, 4 << 20, 1 << 30):
        device.free = free
        sizes.append(case.engine(device).batch)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == case.engine(device).queries


def test_wrong_inputs_are_named(case, folder):
    engine = case.engine(HostDevice(folder))
    name = next(iter(case.arrays))
    with pytest.raises(ArgumentError, match=f"{name}: got nothing"):
        engine.run({})
    with pytest.raises(ArgumentError, match=r"\(3, 2, 2\)"):
        engine.run({name: np.zeros((3, 2, 2), dtype=np.float32)})


def test_progress_ends_at_all_queries(case, folder):
    engine = case.engine(HostDevice(folder), batch=20)
    seen: list[tuple[int, int]] = []
    engine.run(case.arrays, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (engine.queries - 1, engine.queries - 1)


def test_analyze_times_every_launch(case, folder):
    engine = case.engine(HostDevice(folder))
    timings = Timings(len(engine.plan.steps))
    engine.run(case.arrays, timings=timings)
    assert all(timings.of(step) > 0 for step in range(len(engine.plan.steps)))
    assert timings.wall > 0


def test_only_arrays_on_a_gpu_stay_there(case, folder):
    engine = case.engine(HostDevice(folder))
    assert on_gpu(lambda: engine, np.zeros(3)) is None
    assert on_gpu(lambda: pytest.fail("asked for an engine"), torch.zeros(3)) is None


def test_several_boxes_per_query(folder):
    model = Everything().eval()
    boxes = [
        [((2, 7), (3, 9)), ((20, 24), (22, 30))],
        [((0, 5), (0, 5))],
        [((1, 2), (10, 12), (0, 32)), ((0, 3), (30, 32), (30, 32))],
    ]
    image = noise(1, 3, 32, 32)
    compiled = kqo.compile(model, (image,), kqo.Regions(boxes, fill=0.5))
    changed = {compiled.scan.name: compiled.placed.boxes(compiled.scan.axes)}
    engine = CudaEngine(compiled.physical, changed, device=HostDevice(folder))
    given = {compiled.scan.name: image[0].numpy()}
    got, want = engine.run(given)["output"], compiled.engine.run(given)["output"]
    assert np.abs(got - want).max() < EXACT * np.abs(want).max()


class Branches(nn.Module):
    """A concatenation of a concatenation; branches change everywhere, or less than all of it."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.stem = nn.Conv2d(3, 8, 9 if whole else 1, padding=4 if whole else 0)
            self.one, self.two = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 16, 3, padding=1)
            self.three = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.two(x))
        inner = torch.cat([torch.relu(self.three(y)), nn.functional.max_pool2d(x, 3, 1, 1)], 1)
        return torch.cat([torch.relu(self.one(x)), inner], 1).mean((2, 3))


@pytest.mark.parametrize(
    ("whole", "precision"), [(True, "float32"), (True, "float16"), (False, "float32")]
)
def test_parts_of_a_concatenation_are_written_in_place(folder, whole, precision):
    case = Case(Branches(whole).eval(), ((3, 8, 8),), 4, 2)
    engine = case.engine(HostDevice(folder), precision)
    placed = engine.program.placed
    concatenations = [s.table for s in engine.plan.steps if s.form == "concat" and s.delta]
    launched = {engine.plan.steps[launch.step].table for launch in engine.program.deltas}
    if whole:  # every branch changes at every position, so that nothing is copied
        assert len(set(placed.values())) == 1 and not launched & set(concatenations)
    assert bool(placed)
    assert case.error(engine) < max(EXACT, PRECISIONS[precision])


class Clipped(Branches):
    """A concatenation whose rows are clipped, and added to others, as they are made."""

    def __init__(self) -> None:
        super().__init__(whole=False)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.norm, self.last = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1)
            self.norm.weight.data.normal_()
            self.norm.bias.data.normal_()

    def forward(self, x):
        x = torch.relu(self.stem(x))
        three, pooled = self.three(torch.relu(self.two(x))), nn.functional.max_pool2d(x, 3, 1, 1)
        y, beside = torch.cat([three, pooled], 1), torch.relu(self.one(x))
        z = (torch.cat([x, three], 1) - beside) * beside
        return (self.last(torch.relu(self.norm(y))) + z.mean(1, keepdim=True)).mean((2, 3))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_concatenation_ends_in_an_epilogue(folder, precision):
    case = Case(Clipped().eval(), ((3, 8, 8),), 4, 2)
    engine = case.engine(HostDevice(folder), precision)
    tails = [s.node.tail for s in engine.plan.steps if s.form == "concat" and s.delta]
    assert len(tails) == 2 and V not in tails
    assert case.error(engine) < max(EXACT, PRECISIONS[precision])


class Grouped(nn.Module):
    """Convolutions in groups: of widths that fill slices, that copies move whole, and odd ones."""

    def __init__(self, group: int, out: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first = nn.Conv2d(3, 3 * group, 1)
            self.second = nn.Conv2d(3 * group, 3 * out, 3, 2, 1, groups=3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).mean((2, 3))


@pytest.mark.parametrize(
    ("group", "out", "precision", "products"),
    [
        (5, 3, "float32", 1),
        (32, 16, "float16", 3),
        pytest.param(32, 34, "float32", 3, marks=pytest.mark.slow),
        pytest.param(6, 5, "float16", 1, marks=pytest.mark.slow),
        pytest.param(8, 8, "tf32", 1, marks=pytest.mark.slow),
    ],
)
def test_groups_are_products(folder, group, out, precision, products):
    case = Case(Grouped(group, out).eval(), ((3, 10, 10),), 3)
    engine = case.engine(HostDevice(folder), precision)
    assert any(f", 3 groups in {products} " in k.source for k in engine.program.kernels.values())
    assert engine.program.spreading == (products < 3)
    assert case.error(engine) < max(EXACT, PRECISIONS[precision])


@pytest.mark.parametrize(
    ("groups", "width", "several"), [(32, 4, 8), (32, 8, 4), (64, 4, 8), (32, 32, 1), (3, 40, 1)]
)
def test_narrow_groups_fill_tiles_together(groups, width, several):
    """ResNeXt's 32 groups of 4: alone they would use 4 of a tile's 32 columns."""
    sizes = {"taps": 9, "deep": width, "wide": width, "positions": 196}
    assert merged(groups, **sizes, precision="tf32") == several


def test_infinity_stays_in_its_group(folder):
    """Groups that share a product meet zeros between them; the run says that views were odd."""
    case = Case(Grouped(5, 3).eval(), ((3, 10, 10),), 3)
    engine = case.engine(HostDevice(folder))
    engine.run(case.arrays)
    assert engine.views_are_finite()
    (name,) = case.arrays
    engine.run({name: np.where(np.arange(10) == 4, np.inf, case.arrays[name])})
    assert not engine.views_are_finite()


class GroupedBlock(nn.Module):
    """A grouped convolution with all that its epilogue may take in: a norm, the other side of a
    residual block, an activation."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first = nn.Conv2d(3, 12, 1)
            self.second = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=3))
            self.second.append(nn.BatchNorm2d(12))

    def forward(self, x):
        x = torch.relu(self.first(x))
        return torch.relu(self.second(x) + x).mean((2, 3))


@pytest.mark.parametrize("most", [128, 4])
def test_groups_take_in_what_follows(folder, monkeypatch, most):
    """Also computed by definition, as for windows of more taps than have room."""
    monkeypatch.setattr("kqo.emit.cuda_grouped.MOST_TAPS", most)
    case = Case(GroupedBlock().eval(), ((3, 10, 10),), 3)
    engine = case.engine(HostDevice(folder))
    products = [k for k in engine.program.kernels.values() if ", 3 groups" in k.source]
    assert bool(products) == (most == 128)
    assert "grouped_gemm" in {step.form for step in engine.plan.steps}
    assert case.error(engine) < EXACT


@pytest.mark.parametrize(
    ("precision", "capability", "wide"),
    [("float32", 80, 9), ("tf32", 80, 70), ("float16", 80, 40), ("float16", 70, 40)],
)
def test_a_linear_layer_multiplies_only_what_changed(folder, precision, capability, wide):
    case = Case(Flattened(wide).eval(), ((3, 7, 7),), 2, 1)
    device = HostDevice(folder, capability)
    engine = case.engine(device, precision, batch=20)
    (shares,) = (launch for launch in engine.program.views if "shares" in launch.kernel)
    assert case.error(engine) < max(EXACT, PRECISIONS[precision])
    # What the view gives at other positions comes from the shares alone.
    name = engine.program.kernels[shares.kernel].name
    launch = device.launch

    def without_shares(function, *rest):
        if name not in function.__name__:
            launch(function, *rest)

    device.launch = without_shares
    engine._buffers.scratch[f"shares{shares.step}"][:] = 0
    assert case.error(engine) > max(EXACT, PRECISIONS[precision])


@pytest.mark.parametrize("taps", [5, 7])
def test_a_window_over_everything_is_additive_too(folder, taps):
    """As in a fully convolutional head; with padding, some of its keys are missing."""
    head = nn.Conv2d(32, 9, taps, stride=7, padding=1 if taps == 7 else 0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), head).eval()
    case = Case(model, ((3, 7, 7),), 2, 1)
    engine = case.engine(HostDevice(folder), batch=20)
    assert any("shares" in launch.kernel for launch in engine.program.views)
    assert case.error(engine) < EXACT


def test_a_linear_layer_over_few_features_is_a_plain_product(folder):
    """Its slices would hold features of several positions."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 49, 5)).eval()
    case = Case(model, ((3, 7, 7),), 2, 1)
    engine = case.engine(HostDevice(folder))
    assert not any("shares" in launch.kernel for launch in engine.program.views)
    assert case.error(engine) < EXACT
