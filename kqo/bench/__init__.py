"""Benchmarks: a plan side by side with dense re-inference, measured in one run."""

from __future__ import annotations

from kqo.bench.dense import Engine, Timing, onnx_engine, torch_engine
from kqo.bench.report import Report, measure, timed_compile

__all__ = ["Engine", "Report", "Timing", "measure", "onnx_engine", "timed_compile", "torch_engine"]
