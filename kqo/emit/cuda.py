"""Fills the templates of ``codegen/cuda``: from a physical plan to CUDA kernels and launches."""

from __future__ import annotations

from collections.abc import Callable

from kqo.emit import cuda_element, cuda_forms, cuda_gemm
from kqo.emit.cuda_grouped import grouped, groups_of
from kqo.emit.cuda_place import places
from kqo.emit.cuda_program import Collected, Program, Shapes
from kqo.emit.cuda_step import Writing
from kqo.errors import DeviceError
from kqo.ir.nodes import Const, Physical
from kqo.ir.window import roles, tiling
from kqo.planner.physical import PhysicalPlan, Step

Form = Callable[[Writing], None]


def _form(step: Step, precision: str) -> Form:
    """How a step is written. Forms that have no kernel of their own are computed by definition."""
    node = step.node
    if step.form == "patch":
        return cuda_element.patch
    if step.sources[:1] != (None,) and groups_of(node) is not None:
        return grouped
    if not isinstance(node, Physical) or step.sources[:1] == (None,):
        return cuda_element.plain
    if step.form in ("rowwise", "concat"):
        return cuda_forms.rowwise if step.form == "rowwise" else cuda_forms.concat
    window = roles(node)
    if step.form in ("taps", "additive") and window.tap_count <= cuda_forms.MOST_READS - 8:
        return cuda_forms.taps
    if step.form in ("gather_gemm", "winograd") and isinstance(node.weight, Const):
        # Minimal filtering saves multiplications, of which tensor cores have plenty.
        if step.form == "winograd" and precision == "float32" and _tiled(node):
            return cuda_gemm.winograd
        if window.tap_count <= cuda_gemm.MOST_TAPS:
            return cuda_gemm.gather_gemm
    return cuda_element.plain


def _tiled(node: Physical) -> bool:
    return len(roles(node).rows) == 2 and bool(tiling(roles(node), node.tile))


def emit_cuda(plan: PhysicalPlan, shapes: Shapes, precision: str = "float32") -> Program:
    """The CUDA program of a physical plan.

    Args:
        plan: the physical plan, in float32.
        shapes: what kernels are specialised on beside the plan.
        precision: of matrix products: ``float32``; ``tf32`` or ``float16`` round their inputs and
            accumulate in float32, on tensor cores.

    Raises:
        DeviceError: a float64 plan, or one with a part that torch runs.
    """
    opaque = next((step for step in plan.steps if step.form == "opaque"), None)
    if opaque is not None:
        raise DeviceError(
            f"{opaque.name or 'a part of the model'} is run by torch, on the processor",
            hint="target='numpy'",
        )
    if plan.dtype != "float32":
        raise DeviceError(
            f"a plan in {plan.dtype}: kernels compute in float32", hint="target='numpy'"
        )
    into = Collected()
    placed = places(plan, shapes)
    for number, step in enumerate(plan.steps):
        writing = Writing(plan, shapes, number, step, into, precision, placed)
        _form(step, precision)(writing)
    for name, table, axes in plan.roots:
        cuda_element.root(
            Writing(plan, shapes, -1, plan.steps[-1], into, precision), name, table, axes
        )
    return Program(
        into.kernels,
        tuple(into.views),
        tuple(into.deltas),
        tuple(into.roots),
        into.constants,
        tuple(into.scratch.values()),
        tuple(into.tilings),
        precision,
        {table: place.table for table, place in placed.items()},
        into.spreading,
    )
