"""Every emitted kernel compiles for the GPUs that kqo is written for."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import kqo
from kqo.emit.cuda_additive import Shares
from kqo.emit.cuda_gemm import MOST_TAPS, stages_of, tile_for
from kqo.emit.cuda_program import Kernel
from kqo.emit.cuda_step import opening, render
from kqo.errors import DeviceError
from kqo.ir.boxes import everything as all_keys
from kqo.ir.boxes import with_untouched
from kqo.options import PRECISIONS
from kqo.runtime.cuda import cache, nvrtc
from kqo.runtime.cuda.regions import bind_regions
from tests.cuda.planned import Case, Flattened, everything, small

try:
    nvrtc.library()
except DeviceError:
    pytest.skip("needs NVRTC", allow_module_level=True)

ARCHITECTURES = (70, 80, 90)
SIZES = {"inception_v3": 299}


@pytest.fixture(scope="module")
def case() -> Case:
    return everything()


@pytest.fixture(scope="module")
def linear() -> Case:
    return Case(Flattened(40).eval(), ((3, 7, 7),), 2)


def emitted(case: Case, precision: str, architecture: int) -> dict[str, Kernel]:
    """The kernels of a plan. In TF32 without those that are float32's: most that have no product,
    and before 8.0 products, as test_tf32_before_sm_80_is_float32 shows."""
    kernels = case.program(precision).kernels
    if precision != "tf32":
        return dict(kernels)
    known = {text_of(k) for k in case.program("float32").kernels.values()}
    return {
        name: kernel
        for name, kernel in kernels.items()
        if text_of(kernel) not in known and (architecture >= 80 or not kernel.shared_stage)
    }


def text_of(kernel: Kernel) -> str:
    return kernel.source.replace(kernel.name, "")


def compile_for(kernels: dict[str, Kernel], architecture: int) -> None:
    found = cache.compile_all(kernels.values(), architecture)
    assert found.keys() == kernels.keys()
    assert all(path.read_bytes()[:4] == b"\x7fELF" for path in found.values())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KQO_CACHE", str(tmp_path))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_form_compiles(case, precision, architecture):
    kernels = emitted(case, precision, architecture)
    assert kernels or (precision, architecture) == ("tf32", 70)
    compile_for(kernels, architecture)
    stores_half = any("half_t stored" in k.source for k in kernels.values() if not k.shared_stage)
    assert stores_half == (precision == "float16")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_tf32_before_sm_80_is_float32(case):
    """So that its products need not be compiled for 7.0."""
    plan = case.planned("tf32")
    shapes = bind_regions(plan, with_untouched(case.changed)).shapes
    both = [kqo.emit.cuda.emit_cuda(plan, shapes, p).kernels for p in ("float32", "tf32")]
    products = [name for name, kernel in both[1].items() if kernel.shared_stage]
    assert products and both[0].keys() == both[1].keys()
    for name in products:
        exact, rounded = (kernels[name].source for kernels in both)
        assert preprocessed(exact, 700) == preprocessed(rounded, 700)
        assert preprocessed(exact, 800) != preprocessed(rounded, 800)


def preprocessed(source: str, architecture: int) -> str:
    """A kernel as the compiler sees it, without comments."""
    command = ["g++", "-E", "-P", "-x", "c++", f"-D__CUDA_ARCH__={architecture}", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_additive_products_compile(linear, precision, architecture):
    named = {n: k for n, k in linear.program(precision).kernels.items() if "hares" in k.source}
    assert len(named) == 2
    compile_for(named, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_winograd_and_the_binders_compile(case, architecture):
    plan = case.compiled.physical
    regions = bind_regions(plan, with_untouched(case.changed))
    program = kqo.emit.cuda.emit_cuda(plan, regions.shapes, "float32")
    kernels = {n: k for n, k in program.kernels.items() if re.search("_(in|out)put|products", n)}
    assert {n.rsplit("_")[-1] for n in kernels} >= {"input", "products"}
    for precision in ("float32", "float16"):
        kernels[precision] = Kernel(precision, opening(precision) + render("bind"), 128)
    compile_for(kernels, architecture)


def test_tensor_cores_are_used_where_they_are(case):
    """The machine code differs by architecture as the instructions do."""
    kernel = next(k for k in case.program("tf32").kernels.values() if k.shared_stage)
    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in kernel.source
    assert "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32" in kernel.source
    assert kernel.shared_bytes(70) < kernel.shared_bytes(80)
    assert kernel.shared_bytes(70) <= 96 << 10 and kernel.shared_bytes(80) <= 99 << 10


@pytest.mark.parametrize("architecture", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_tensor_core_kernels_keep_their_sums_in_registers(case, precision, architecture):
    """Two blocks of 256 threads on a multiprocessor leave 128 registers a thread."""
    kernels = [k for k in case.program(precision).kernels.values() if k.shared_stage]
    for kernel in kernels:
        found = nvrtc.assembled(kernel.source, architecture)
        assert found.registers <= 128 and not found.spilled
        assert 2 * (kernel.shared_bytes(architecture) + 1024) <= 163 << 10


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_fit_the_shared_memory_of_every_gpu(precision):
    """Row numbers of all taps and of a few operands, beside slices under way: 99 KiB on compute
    capability 8.6, 64 KiB on 7.5."""
    operands = 6
    for taps in range(1, MOST_TAPS + 1):
        for wide in (8, 32, 48, 64, 96, 128, 512):
            tile = tile_for(wide, taps, 100)
            numbers, stage = 4 * tile.rows * (taps + operands), tile.stage_bytes(precision)
            numbers += Shares.nbytes(taps, tile.columns)
            sizes = {"shared": numbers, "shared_stage": stage, "stages": stages_of(precision)}
            kernel = Kernel("", "", 256, **sizes)
            assert kernel.shared_bytes(86) <= 99 << 10 and kernel.shared_bytes(75) <= 64 << 10


def test_newer_gpus_get_code_for_the_driver_to_translate(case):
    newest = nvrtc.architectures()[-1]
    kernel = next(iter(case.program().kernels.values()))
    code = nvrtc.compile_kernel(kernel.source, newest + 10)
    assert f".target sm_{newest}".encode() in code and code.rstrip().endswith(b"}")


def test_code_is_cached(case, tmp_path, monkeypatch):
    kernel = next(iter(case.program().kernels.values()))
    first = cache.compiled(kernel, 80)
    assert list((tmp_path / "cuda").iterdir()) == [first]
    monkeypatch.setattr(nvrtc, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert cache.compiled(kernel, 80) == first
    with pytest.raises(pytest.fail.Exception):
        cache.compiled(kernel, 90)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:99] + b"?" + b[100:], len])
def test_a_damaged_file_is_compiled_anew(case, tmp_path, damage):
    kernel = next(iter(case.program().kernels.values()))
    path = cache.compiled(kernel, 80)
    whole = path.read_bytes()
    assert whole[:4] == b"\x7fELF"
    path.write_bytes(b"" if damage is len else damage(whole))
    assert cache.compiled(kernel, 80).read_bytes() == whole
    assert len(list((tmp_path / "cuda").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_no_error(case, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KQO_CACHE", str(tmp_path / "file"))
    kernel = next(iter(case.program().kernels.values()))
    found = cache.compiled(kernel, 80)
    assert found.read_bytes()[:4] == b"\x7fELF" and tmp_path not in found.parents


def test_where_no_file_can_be_written_it_says_so(case, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KQO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_own_folder", lambda: SimpleNamespace(name=tmp_path / "file"))
    kernel = next(iter(case.program().kernels.values()))
    with pytest.raises(DeviceError, match=r"cannot be written: File exists .KQO_CACHE=FOLDER"):
        cache.compiled(kernel, 80)


def test_gpus_that_a_newer_nvrtc_has_dropped_are_named(monkeypatch):
    monkeypatch.setattr(nvrtc, "architectures", lambda: (75, 80))
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
    with pytest.raises(DeviceError, match=r"NVRTC 13.0 writes no code for compute capability 7.0"):
        nvrtc.compile_kernel("", 70)


def test_nvrtc_13_is_the_last_choice(tmp_path, monkeypatch):
    paths = [tmp_path / "nvidia" / part for part in ("cu13/lib", "cuda_nvrtc/lib")]
    for path, version in zip(paths, (13, 12), strict=True):
        path.mkdir(parents=True)
        (path / f"libnvrtc.so.{version}").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = nvrtc._candidates()
    assert found[-1] == str(paths[0] / "libnvrtc.so.13")
    assert str(paths[1] / "libnvrtc.so.12") in found[:-1]


def test_what_does_not_compile_says_where():
    with pytest.raises(DeviceError, match=r"broken does not compile for sm_80: broken.cu\(1\)"):
        nvrtc.compile_kernel("not C", 80, "broken")


def test_equal_kernels_are_emitted_once(case):
    texts = [kernel.source for kernel in case.program().kernels.values()]
    assert len(texts) == len(set(texts))


@lru_cache(maxsize=1)
def full_size(name: str) -> Case:
    """A model of the zoo at full size, for the tests that follow one another."""
    size = SIZES.get(name, 224)
    return Case(kqo.zoo.build(name), ((3, size, size),), 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "architecture"), list(product(kqo.zoo.NAMES, PRECISIONS, ARCHITECTURES))
)
def test_zoo_compiles(name, precision, architecture):
    compile_for(emitted(full_size(name), precision, architecture), architecture)


def test_a_float64_plan_is_refused(case):
    from dataclasses import replace

    plan = replace(case.planned(), dtype="float64")
    shapes = bind_regions(plan, with_untouched(case.changed)).shapes
    with pytest.raises(DeviceError, match="float64: kernels compute in float32"):
        kqo.emit.cuda.emit_cuda(plan, shapes)


def test_region_tables_count_from_the_batch():
    """Starts of a region table, against a count by hand."""
    case = small("fusion")
    found = bind_regions(case.planned(), with_untouched(case.changed))
    region = next(r for r in found.tables if r.positions and not r.whole)
    table = region.table(region.rows, 3)
    for query in range(len(table)):
        before = region.rows[query - query % 3 : query].sum()
        assert table[query, 0, -1] == before
    assert (
        all_keys(region.positions, 2).volume().tolist()
        == [np.prod([a.extent for a in region.positions])] * 2
    )
