"""Calibrating a GPU, on a device whose every launch takes a millisecond."""

from __future__ import annotations

import pytest

from kqo.cli import calibrate as command
from kqo.errors import ArgumentError, DeviceError
from kqo.options import PRECISIONS
from kqo.planner import calibrate as kept
from kqo.planner.cuda_rates import GpuRates, cuda_rates
from kqo.planner.rates import REFERENCE
from kqo.runtime.cuda.calibrate import calibrate_gpu, gpu_rates, rates_file
from kqo.runtime.cuda.device import gpu_available
from tests.cuda.host import HostDevice

SECONDS = 1e-3


class Steady(HostDevice):
    """Takes a millisecond for anything, and computes nothing."""

    def load(self, kernels):
        return dict.fromkeys(kernels)

    def launch(self, *_):
        pass

    def milliseconds(self, work):
        work()
        return SECONDS * 1e3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rates_are_work_over_time(tmp_path, precision):
    said: list[str] = []
    found = calibrate_gpu(Steady(tmp_path), precision, said.append, elements=1 << 12)
    for inner, row in zip(REFERENCE.inner, found.gemm, strict=True):
        for wide, rate in zip(REFERENCE.wide, row, strict=True):
            rows = max(16, (1 << 12) // max(inner, wide))
            assert rate == pytest.approx(2 * rows * inner * wide / SECONDS)
    assert found.stream == found.scalar == pytest.approx((1 << 12) / SECONDS)
    assert found.bind == pytest.approx(SECONDS)
    assert found.source == "calibrated"
    assert ("Winograd" in said) == (precision == "float32")
    if precision == "float32":
        side = int((1 << 5) ** 0.5)
        tiles = (-(-side // 4)) ** 2
        assert found.batched == pytest.approx(2 * 36 * 128 * 128 * tiles / SECONDS)


def test_rates_are_kept_by_gpu_and_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "cache_file", lambda: tmp_path / "rates.json")
    monkeypatch.delenv(kept.VARIABLE)
    assert gpu_rates("one", "tf32") == cuda_rates("tf32")
    kept.keep(REFERENCE, rates_file("one", "tf32"))
    assert gpu_rates("one", "tf32") == GpuRates.from_dict(REFERENCE.to_dict())
    assert gpu_rates("one", "float16") == cuda_rates("float16")
    assert gpu_rates("another", "tf32") == cuda_rates("tf32")
    monkeypatch.setenv(kept.VARIABLE, "reference")
    assert gpu_rates("one", "tf32") == cuda_rates("tf32")


def test_the_command_measures_every_precision(tmp_path, monkeypatch, capsys):
    from kqo.runtime.cuda import calibrate, device

    monkeypatch.setattr(kept, "cache_file", lambda: tmp_path / "rates.json")
    monkeypatch.delenv(kept.VARIABLE)
    monkeypatch.setattr(device, "CupyDevice", lambda: Steady(tmp_path))
    monkeypatch.setattr(calibrate, "calibrate_gpu", lambda _, precision, say: cuda_rates(precision))
    command.calibrate(target="cuda")
    assert capsys.readouterr().out.count("kept in") == len(PRECISIONS)
    assert all(rates_file("host", precision).exists() for precision in PRECISIONS)


def test_the_command_names_what_it_does_not_take(tmp_path):
    with pytest.raises(ArgumentError, match="target: got 'tpu'"):
        command.calibrate(target="tpu")
    with pytest.raises(ArgumentError, match="output"):
        command.calibrate(target="cuda", output=tmp_path / "rates.json")


@pytest.mark.skipif(gpu_available(), reason="this machine has a GPU")
def test_the_command_without_a_gpu_says_so():
    with pytest.raises(DeviceError, match="target cuda"):
        command.calibrate(target="cuda")
