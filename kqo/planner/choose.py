"""From alternatives to a physical plan: how each relation is stored and which form computes its
rows.

A relation that varies by query is stored as an overlay (a view with delta rows over a region) where
a delta rule offered one, and as full rows per query otherwise. The form of each step is the
cheapest of what the physical rules offered; where they offered nothing, the plain implementation,
which every node has. Sharing is accounted for by dividing a relation's cost among its readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kqo.errors import PlanError
from kqo.ir.bind import Known, bind
from kqo.ir.boxes import Boxes, everything, with_untouched
from kqo.ir.folded import Constants
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Opaque,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.physical import CONCAT, concatenated
from kqo.ir.plan import Origin, Plan
from kqo.ir.region import Everything, Region, Shrink
from kqo.ir.scalar import Var
from kqo.ir.schema import has_query, names, positions, size, without_query
from kqo.ir.window import always_finds
from kqo.planner.additive import left_out
from kqo.planner.candidates import (
    Candidate,
    bare,
    data_inputs,
    has_plain_form,
    is_product,
    is_vector,
)
from kqo.planner.cost import work
from kqo.planner.estimate import USUAL_BATCH, kernel_bytes, tiles_of
from kqo.planner.physical import PhysicalPlan, Step, Table
from kqo.planner.rates import Rates
from kqo.planner.rounding import LARGEST, Offers, levels, rounding, within
from kqo.planner.shrink import unmeasured, without
from kqo.rewrite.memo import Memo


class Chooser:
    """Chooses storage and forms for one plan over one set of positions.

    Attributes:
        tolerance: that what forms are expected to lose to rounding may reach in all; None for any.
        most_rounding: by kernel, what may be lost to rounding where that keeps the tolerance.
        bound: regions as bound to the positions, with the query that changes nothing.
        unmeasured: regions that rules would cut by what changed, where the choice does not.
    """

    def __init__(
        self,
        plan: Plan,
        memo: Memo,
        changed: Mapping[str, Boxes],
        rates: Rates,
        tolerance: float | None = None,
    ) -> None:
        self.plan = plan
        self.memo = memo
        self.changed = with_untouched(changed)
        self.queries = next(iter(changed.values())).queries
        self.rates = rates
        self.tolerance = tolerance
        self.most_rounding: dict[Node, float] = {}
        self.bound = Known()
        self.readers = plan.readers()
        for home in memo.groups():
            for alternative in memo.alternatives(home):
                if isinstance(alternative, Overlay):
                    # What reads the base is the base of what reads the overlay.
                    base = bare(alternative.base)
                    self.readers.setdefault(base, self.readers.get(home, 1))
        self._cost: dict[Node, tuple[float, Candidate | None]] = {}
        self._candidates: dict[Node, list[Candidate]] = {}
        self._products: dict[Node, dict[Node, float]] = {}
        self._rows: dict[Node, int] = {}
        self._sliced: dict[Node, bool] = {}
        self._overlays: dict[Node, Overlay | None] = {}
        self._tables: list[Table] = []
        self._steps: list[Step] = []
        self._built: dict[Node, int] = {}
        self.unmeasured: frozenset[Shrink] = frozenset()
        self._bases: set[Node] = set()
        self._copies: dict[Node, int] = {}

    def overlay(self, node: Node) -> Overlay | None:
        """The overlay that a delta rule offered for this relation, the one with the fewest rows; of
        those over the same base that is materialized, since it is then computed once per input."""
        if node not in self._overlays:
            found = [a for a in self.memo.alternatives(node) if isinstance(a, Overlay)]
            self._overlays[node] = min(found, key=self._overlay_order, default=None)
        return self._overlays[node]

    def _overlay_order(self, overlay: Overlay) -> tuple[int, bool]:
        kept = isinstance(overlay.base, (Saved, Scan, Const))
        return self._overlay_rows(overlay), not kept

    def _overlay_rows(self, overlay: Overlay) -> int:
        return self._region_rows(overlay, overlay.at)

    def _region_rows(self, node: Node, region: Region) -> int:
        boxes = bind(region, self.changed, self.bound)
        return int(self.bound.project(boxes, names(positions(node.schema))).volume().sum())

    def rows(self, node: Node) -> int:
        """Rows to compute for this relation, over all queries; its positions where it is a view."""
        if node not in self._rows:
            whole = size(positions(node.schema))
            if not has_query(node.schema):
                self._rows[node] = whole
            elif (overlay := self.overlay(node)) is not None:
                self._rows[node] = self._overlay_rows(overlay)
            else:
                self._rows[node] = whole * self.queries
        return self._rows[node]

    def boxes(self, node: Node) -> Boxes:
        """The rows to compute for this relation, as boxes over its positions."""
        axes = positions(node.schema)
        overlay = self.overlay(node) if has_query(node.schema) else None
        if overlay is None:
            return everything(axes, self.queries if has_query(node.schema) else 1)
        boxes = bind(overlay.at, self.changed, self.bound)
        return self.bound.project(boxes, names(axes))

    def candidates(self, node: Node) -> list[Candidate]:
        """The ways to compute the rows of a relation: physical alternatives, then the plain one."""
        if node not in self._candidates:
            self._candidates[node] = self._offered(node)
        return self._candidates[node]

    def _offered(self, node: Node) -> list[Candidate]:
        found: list[Candidate] = []
        for alternative in self.memo.alternatives(node):
            if self.is_sliced(alternative):
                continue
            if isinstance(alternative, Domain):
                found.append(Candidate("plain", alternative))
            elif isinstance(alternative, Physical):
                most = self.most_rounding.get(alternative.weight)
                if most is not None and self._rounding(alternative) > most:
                    continue
                if alternative.form == "additive" and self.overlay(alternative.input) is None:
                    continue  # its input is stored in full, so that there is nothing to subtract
                found.append(Candidate(alternative.form, alternative))
            elif isinstance(alternative, Opaque):
                found.append(Candidate("opaque", alternative))
            elif isinstance(alternative, (Rekey, Union)) or (
                isinstance(alternative, (Group, Map, Join)) and has_plain_form(alternative)
            ):
                found.append(Candidate("plain", alternative))
        return found

    def _rounding(self, node: Node) -> float:
        return rounding(node, self.plan.dtype)

    def form_rule(self, node: Node) -> str:
        """Name of the rule that added a form, before others fused an epilogue into it."""
        if not isinstance(node, Physical):
            return ""
        parts = concatenated(node)[1:] if node.form == CONCAT else ()
        bare = replace(node, tail=Var("v"), operands=parts)
        return self.memo.rule_of(bare) or self.memo.rule_of(node) or ""

    def is_sliced(self, node: Node) -> bool:
        """Whether a part of a relation is read below, as only additive forms do."""
        stack = [node]
        while stack:
            at = stack[-1]
            waiting = [source for source in at.inputs if source not in self._sliced]
            if at not in self._sliced and waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            self._sliced[at] = isinstance(at, Slice) or (
                not isinstance(at, Overlay) and any(self._sliced[source] for source in at.inputs)
            )
        return self._sliced[node]

    def _own_cost(self, node: Node, candidate: Candidate, rows: int) -> float:
        tiles = 0
        if candidate.form == "winograd" and isinstance(candidate.node, Physical):
            tiles = tiles_of(self.boxes(node), candidate.node)
        elif candidate.form == "additive":
            tiles = self.rows(candidate.node.inputs[0])
        counted = work(candidate.form, candidate.node, rows, tiles)
        if self.rates.linear_block and candidate.form == "gather_gemm" and has_query(node.schema):
            source = candidate.node.inputs[0]
            axes = positions(source.schema)
            moved = self.boxes(source) if self.overlay(source) is not None else None
            counted = left_out(
                counted, candidate.form, candidate.node, rows, moved, axes, self.rates
            )
        seconds = counted.seconds(self.rates) + self.rates.bind
        if has_query(node.schema):
            batches = -(-self.queries // USUAL_BATCH)
            seconds += batches * kernel_bytes(candidate.form, candidate.node) / self.rates.memory
        return seconds

    def cost(self, node: Node) -> tuple[float, Candidate | None]:
        """Cost of having this relation's rows, its inputs' shares included, and the way chosen."""
        if node in self._cost:
            return self._cost[node]
        stack = [node]
        while stack:
            at = stack[-1]
            if at in self._cost:
                stack.pop()
                continue
            waiting = [n for n in self._needs(at) if n not in self._cost]
            if waiting:
                stack.extend(waiting)
                continue
            self._cost[at] = self._settle(at)
            stack.pop()
        return self._cost[node]

    def _needs(self, node: Node) -> list[Node]:
        """Relations whose cost must be known before this one's."""
        if isinstance(node, Saved):
            return [node.input]
        if isinstance(node, (Scan, Const, Domain)):
            return []
        overlay = self.overlay(node)
        found = [overlay.base] if overlay is not None else []
        patched = overlay is not None and not self.is_own_slice(node, overlay)
        if overlay is not None and patched and not is_vector(overlay.patch):
            found.append(overlay.patch)
        if overlay is None or self.is_own_slice(node, overlay):
            for candidate in self.candidates(node):
                found += [i for i in candidate.sources if i is not None]
        return found

    def is_own_slice(self, node: Node, overlay: Overlay) -> bool:
        """Whether the overlay's patch is this relation itself, computed over the region."""
        patch = overlay.patch
        return isinstance(patch, Slice) and (
            self.memo.representative(patch.input) is self.memo.representative(node)
        )

    def _settle(self, node: Node) -> tuple[float, Candidate | None]:
        if isinstance(node, Saved):
            return self._cost[node.input][0], None
        if isinstance(node, (Scan, Const)):
            return 0.0, None
        if isinstance(node, Domain):
            # Its rows, all ones, are computed where a step reads them; forms seldom do.
            return 0.0, self.candidates(node)[0]
        overlay = self.overlay(node)
        total = self._cost[overlay.base][0] if overlay is not None else 0.0
        if overlay is not None and not self.is_own_slice(node, overlay):
            return total, None
        best: tuple[float, Candidate | None] = (float("inf"), None)
        rows = self.rows(node)
        for candidate in self.candidates(node):
            cost = self._own_cost(node, candidate, rows)
            for source in candidate.sources:
                if source is not None:
                    cost += self._cost[source][0] / max(1, self.readers.get(source, 1))
            if is_product(candidate):
                self._products.setdefault(node, {})[candidate.node] = cost
            if cost < best[0]:
                best = (cost, candidate)
        if best[1] is None:
            layer = self.origin(node).layer
            partial = isinstance(node, Join) and not always_finds(node)
            why = ": its keys may find no partner, and it is not below a Group" if partial else ""
            raise PlanError(f"no physical form for {node.op} of layer {layer or '?'}{why}")
        if overlay is not None:
            self._share_kernel(overlay.base, best[1])
        return total + best[0], best[1]

    def _share_kernel(self, base: Node, delta: Candidate) -> None:
        """Compute a view by the form of its delta rows: it is computed once, but a form of its own
        would need the kernel in one more layout."""
        base = bare(base)
        cost, chosen = self._cost[base]
        if chosen is None or not isinstance(chosen.node, Physical):
            return
        if not isinstance(delta.node, Physical) or not is_product(chosen) or not is_product(delta):
            return
        wanted = replace(chosen.node, form=delta.node.form, tile=delta.node.tile)
        for candidate in self.candidates(base):
            if candidate.node == wanted:
                self._cost[base] = (cost, candidate)

    def origin(self, node: Node) -> Origin:
        """Where a relation came from."""
        return self.memo.origin(node) or Origin("")

    def table(self, node: Node) -> int:
        """Id of the table that holds this relation, with the steps that fill it."""
        if node not in self._built:
            self._built[node] = self._build(node)
        return self._built[node]

    def _new_table(self, node: Node, view: bool, region: Region | None) -> int:
        name = node.name if isinstance(node, (Scan, Const)) else self.origin(node).layer
        axes = without_query(node.schema)
        self._tables.append(Table(len(self._tables), name, axes, view, region))
        return len(self._tables) - 1

    def _build(self, node: Node) -> int:
        if isinstance(node, Saved):
            return self.table(node.input)
        if isinstance(node, (Scan, Const)):
            return self._new_table(node, True, None)
        overlay = self.overlay(node)
        if overlay is None:
            sources = self._sources(node)
            varies = has_query(node.schema)
            region = Everything(without_query(node.schema)) if varies else None
            table = self._new_table(node, not varies, region)
            self._add_step(node, table, varies, sources, once=False)
            return table
        base = overlay.base
        table = self.table(base)
        if self._tables[table].region is not None:
            table = self._copied(base)  # another overlay has its delta rows there
        if not isinstance(base, (Saved, Scan, Const)):
            self._unsave(table)
        if self.is_own_slice(node, overlay):
            sources = self._sources(node)
            self._tables[table] = replace(self._tables[table], region=overlay.at)
            self._add_step(node, table, True, sources, once=False)
        else:
            patch = overlay.patch
            source = None if is_vector(patch) else self._read(patch)
            self._tables[table] = replace(self._tables[table], region=overlay.at)
            self._steps.append(
                Step(self._tables[table].name, "patch", overlay, table, True, False, (source,))
            )
        return table

    def _unsave(self, table: int) -> None:
        """View steps of a base that is not materialized run once per batch."""
        self._steps = [
            replace(s, once=False) if s.table == table and not s.delta else s for s in self._steps
        ]

    def _spread_unsaved(self) -> None:
        """View steps that read view rows that are computed once per batch run as often."""
        often: set[int] = set()
        for number, step in enumerate(self._steps):
            if not step.delta and (not step.once or often & set(step.sources)):
                often.add(step.table)
                self._steps[number] = replace(step, once=False)

    def _sources(self, node: Node) -> tuple[int | None, ...]:
        candidate = self.cost(node)[1]
        if candidate is None:
            return ()
        read = self._read if has_query(node.schema) else self.table
        return tuple(None if i is None else read(i) for i in candidate.sources)

    def _read(self, node: Node) -> int:
        """Id of the table that a step that varies by query reads a relation from. The old values
        of what is overlaid lie among new ones; where they are read for themselves, from a copy."""
        base = bare(node)
        if has_query(node.schema) or base not in self._bases:
            return self.table(node)
        if base not in self._copies:
            self._copies[base] = self._copied(node)
        return self._copies[base]

    def _copied(self, node: Node) -> int:
        """Id of a new table with the rows of a relation that does not vary."""
        source = self.table(node)
        axes = without_query(node.schema)
        copy = Physical("rowwise", node, Domain(()), (), axes, (), "left", "", Var("v"), (), 0)
        table = self._new_table(node, True, None)
        name = self._tables[table].name
        self._steps.append(Step(name, copy.form, copy, table, False, True, (source, None)))
        return table

    def _add_step(
        self, node: Node, table: int, delta: bool, sources: tuple[int | None, ...], once: bool
    ) -> None:
        candidate = self.cost(node)[1]
        assert candidate is not None
        self._steps.append(
            Step(
                self.origin(node).layer,
                candidate.form,
                candidate.node,
                table,
                delta,
                once or not delta,
                sources,
                self.form_rule(candidate.node),
            )
        )

    def _chosen(self) -> list[Node]:
        """The relations that the cheapest forms store, inputs before readers."""
        for _, root in self.plan.roots:
            self.cost(root)
        wanted: set[Node] = set()
        stack = [root for _, root in self.plan.roots]
        while stack:
            node = stack.pop()
            if node in wanted:
                continue
            wanted.add(node)
            if isinstance(node, Saved):
                stack.append(node.input)
                continue
            overlay = self.overlay(node)
            candidate = self._cost[node][1]
            if overlay is not None:
                stack.append(overlay.base)
                if candidate is None and not is_vector(overlay.patch):
                    stack.append(overlay.patch)
            if candidate is not None:
                stack.extend(i for i in candidate.sources if i is not None)
        return [node for node in self._cost if node in wanted]

    def _exact_enough(self, tolerance: float) -> list[Node]:
        """The relations that are stored where what is expected of rounding keeps the tolerance."""
        if any(positions(root.schema) for _, root in self.plan.roots):
            tolerance /= LARGEST
        while True:
            chosen = self._chosen()
            over = {bare(o.base): n for n in chosen if (o := self.overlay(n)) is not None}
            ways: dict[Node, list[Offers]] = {}  # of delta rows and of their view
            members: dict[Node, list[Node]] = {}
            for node in chosen:
                candidate, own = self._cost[node][1], self._products.get(node, {})
                if candidate is not None and candidate.node in own:
                    offers = [(cost, self._rounding(way)) for way, cost in own.items()]
                    taken = self._rounding(candidate.node)
                    home = over.get(node, node)
                    ways.setdefault(home, []).append((taken, offers))
                    members.setdefault(home, []).extend(own)
            left = within(tolerance, {node: levels(own) for node, own in ways.items()})
            if not left:
                return chosen
            for node, most in left.items():
                for way in members[node]:
                    assert isinstance(way, Physical)
                    self.most_rounding[way.weight] = min(
                        most, self.most_rounding.get(way.weight, most)
                    )
            self._candidates.clear()
            self._products.clear()
            self._cost.clear()

    def choose(self) -> PhysicalPlan:
        """The physical plan for the roots."""
        roots = []
        chosen = self._chosen() if self.tolerance is None else self._exact_enough(self.tolerance)
        self._bases = {bare(over.base) for n in chosen if (over := self.overlay(n)) is not None}
        for node in chosen:
            self.table(node)
        self._spread_unsaved()
        for name, root in self.plan.roots:
            roots.append((name, self._read(root), without_query(root.schema)))
        used = {
            c.name
            for step in self._steps
            for c in (*data_inputs(step.node), step.node)
            if isinstance(c, Const)
        }
        used |= {i.name for s in self._steps for i in s.node.inputs if isinstance(i, Const)}
        used |= {t.name for t in self._tables}
        found = PhysicalPlan(
            self.plan.name,
            tuple(self._tables),
            tuple(self._steps),
            tuple(sorted(t for n, t in self._built.items() if isinstance(n, Scan))),
            tuple(roots),
            Constants(self.plan.constants, names=used),
            self.plan.dtype,
        )
        self.unmeasured = unmeasured(found)
        return without(found, self.unmeasured)
