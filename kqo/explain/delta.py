"""The delta plan that the planner chose, as a logical plan: which overlays and views it has, and
where it stops being incremental."""

from __future__ import annotations

from kqo.ir.nodes import Const, Domain, Node, Overlay, Physical, Saved, Scan, Slice, walk
from kqo.ir.plan import Origin, Plan
from kqo.ir.schema import has_query
from kqo.planner.candidates import data_inputs, is_vector
from kqo.planner.choose import Chooser
from kqo.planner.shrink import widened


def delta_plan(chooser: Chooser) -> Plan:
    """The overlaid plan with the chosen alternatives in place, equal to it in meaning.

    A relation that is stored as a view with delta rows is ``Overlay(base: Saved(...), patch:
    Slice(input: <its operators>, at: R), at: R)``; what lies between two stored relations,
    fused into one physical operator, has no overlay of its own.

    Args:
        chooser: one that has chosen.
    """
    writer = _Writer(chooser)
    roots = tuple((name, writer.stored(root)) for name, root in chooser.plan.roots)
    plan = chooser.plan.with_roots(roots, chooser.memo.constants, writer.origins)
    used = set(walk(*(root for _, root in roots)))
    origins = {node: origin for node, origin in plan.origins.items() if node in used}
    return Plan(plan.name, plan.roots, plan.constants, origins, plan.dtype)


class _Writer:
    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._stored: dict[Node, Node] = {}
        self.origins: dict[Node, Origin] = {}

    def stored(self, node: Node) -> Node:
        """What stands for a relation that the plan stores; iterative, since plans are deep."""
        stack = [node]
        while stack:
            top = stack[-1]
            waiting = [n for n in self._below(top) if n not in self._stored]
            if top in self._stored or not waiting:
                stack.pop()
                if top not in self._stored:
                    self._stored[top] = self._write(top)
            else:
                stack.extend(waiting)
        return self._stored[node]

    def _reads(self, node: Node) -> tuple[Node, ...]:
        """The relations that the chosen way to compute a relation reads."""
        candidate = self._chooser.cost(node)[1]
        return () if candidate is None else data_inputs(candidate.node)

    def _below(self, node: Node) -> list[Node]:
        if isinstance(node, (Scan, Const, Domain)):
            return []
        if isinstance(node, Saved):
            return [node.input]
        overlay = self._chooser.overlay(node)
        found = [n for n in self._reads(node) if not is_vector(n)]
        if overlay is not None:
            found.append(overlay.base)
            if not self._chooser.is_own_slice(node, overlay) and not is_vector(overlay.patch):
                found.append(overlay.patch)
        return found

    def _write(self, node: Node) -> Node:
        if isinstance(node, (Scan, Const, Domain)):
            return node
        if isinstance(node, Saved):
            return self._note(node, Saved(self._stored[node.input]))
        overlay = self._chooser.overlay(node)
        if overlay is None:
            return self._computed(node)
        base = self._stored[overlay.base]
        if not self._chooser.is_own_slice(node, overlay):
            patch = self._stored.get(overlay.patch, overlay.patch)
            return self._note(node, Overlay(base, patch, overlay.at))
        assert isinstance(overlay.patch, Slice)
        left = self._chooser.unmeasured
        patch = Slice(self._computed(node), widened(overlay.patch.at, left))
        self._note(node, patch)
        return self._note(node, Overlay(base, patch, widened(overlay.at, left)))

    def _computed(self, node: Node) -> Node:
        """The operators of a relation over the stored relations that its rows are computed from."""
        reads = {n for n in self._reads(node) if not is_vector(n)}
        for form in self._chooser.memo.alternatives(node):
            if isinstance(form, (Overlay, Physical)):
                continue
            built: dict[Node, Node] = {n: self._stored[n] for n in reads}
            made = self._over(form, built) if form not in reads else None
            if made is not None:
                return made
        # No logical alternative reads just these: the relation stays as it was asked for.
        return node

    def _over(self, form: Node, built: dict[Node, Node]) -> Node | None:
        """The form over stored relations; None where it needs one that varies and is not stored."""
        stack = [form]
        while stack:
            top = stack[-1]
            waiting = [n for n in top.inputs if n not in built]
            if top in built:
                stack.pop()
            elif isinstance(top, Overlay) or (isinstance(top, Scan) and has_query(form.schema)):
                return None
            elif waiting:
                stack.extend(waiting)
            else:
                stack.pop()
                made = top.with_inputs(tuple(built[n] for n in top.inputs)) if top.inputs else top
                built[top] = self._note(top, made)
        return built[form]

    def _note(self, node: Node, made: Node) -> Node:
        origin = self._chooser.memo.origin(node)
        if origin is not None:
            self.origins.setdefault(made, origin)
        return made
