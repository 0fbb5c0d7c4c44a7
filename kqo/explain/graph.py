"""A plan as a graph, and its drawings: DOT for Graphviz, and SVG drawn here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from html import escape
from itertools import pairwise

import networkx as nx

from kqo.explain.layout import Layout, Point, layered
from kqo.explain.subject import Subject
from kqo.explain.text import describe, duration, layer_of
from kqo.ir.nodes import Const, Domain, Node, Saved, Slice
from kqo.ir.plan import Plan
from kqo.ir.schema import format_axes
from kqo.ir.text import Labels, format_definition

BOX: Point = (196.0, 40.0)
GAP: Point = (14.0, 22.0)
_LETTERS = 27


def graph_of(subject: Subject, stage: str) -> nx.DiGraph:
    """The plan at a stage as a graph, edges from what is read to what reads it.

    Nodes have the attributes ``title`` and ``about`` (two lines of text), ``detail`` (more, for a
    tooltip), ``group`` (the part of the model that they belong to), ``share`` (of the predicted
    time; 0 for a logical plan), ``seconds`` and ``kind`` (delta, view, base, or an operator's
    name). The nodes of the physical plan are the numbers of its tables, those of a logical plan its
    labels.
    """
    return _physical(subject) if stage == "physical" else _logical(subject.plan(stage))


def scope_of(layer: str) -> str:
    """The part of a model that a layer belongs to: its name without the last component."""
    return layer.rpartition(".")[0]


def _physical(subject: Subject) -> nx.DiGraph:
    plan, prediction = subject.physical, subject.prediction
    graph = nx.DiGraph()
    total = sum(step.seconds for step in prediction.steps) or 1.0
    steps: dict[int, list[int]] = {table.id: [] for table in plan.tables}
    called: dict[int, str] = {}
    for number, step in enumerate(plan.steps):
        steps[step.table].append(number)
        called[step.table] = layer_of(subject, step)
    for table in plan.tables:
        if not steps[table.id]:
            shown = table.name or f"table {table.id}"
            graph.add_node(
                table.id, title=shown, about=format_axes(table.axes), detail=shown,
                group="", share=0.0, kind="base", seconds=0.0,
            )  # fmt: skip
            continue
        last = plan.steps[steps[table.id][-1]]
        seconds = sum(prediction.steps[n].seconds for n in steps[table.id])
        name = layer_of(subject, last)
        lines = [f"{name}: {describe(last)} {format_axes(table.axes)}"]
        for number in steps[table.id]:
            estimate, what = prediction.steps[number], plan.steps[number]
            kind = "delta rows" if what.delta else "view"
            took = duration(estimate.seconds)
            if what.leader is not None:
                took = f"by the step of {called[what.leader]}"
            lines.append(f"step {number}, {kind}: {estimate.rows} rows, {took}")
        if last.rule:
            lines.append(f"rule {last.rule}")
        share = seconds / total
        graph.add_node(
            table.id, title=name, about=f"{describe(last)}  {share:.1%}", detail="\n".join(lines),
            group=scope_of(name), share=share, kind="delta" if last.delta else "view",
            seconds=seconds,
        )  # fmt: skip
    for step in plan.steps:
        for source in step.sources:
            if source is not None and source != step.table:
                graph.add_edge(source, step.table)
    used = {t for _, t, _ in plan.roots} | {n for edge in graph.edges for n in edge}
    graph.remove_nodes_from([n for n in list(graph) if n not in used])
    return graph


def _logical(plan: Plan) -> nx.DiGraph:
    labels = Labels.of(node for _, node in plan.roots)
    graph = nx.DiGraph()
    for node in plan.nodes():
        if isinstance(node, (Const, Domain)):
            continue  # kernels are named by what reads them; as boxes they would hide the rest
        origin = plan.origins.get(node)
        layer = origin.layer if origin is not None else ""
        graph.add_node(
            labels.nodes[node], title=f"{labels.nodes[node]} {node.op}", about=_about(node, layer),
            detail=format_definition(node, labels), group=scope_of(layer), share=0.0,
            kind=node.op, seconds=0.0,
        )  # fmt: skip
        for source in node.inputs:
            if not isinstance(source, (Const, Domain)):
                graph.add_edge(labels.nodes[source], labels.nodes[node])
    return graph


def _about(node: Node, layer: str) -> str:
    axes = format_axes(node.schema)
    return axes if isinstance(node, (Saved, Slice)) or not layer else f"{layer} {axes}"


def to_dot(graph: nx.DiGraph) -> str:
    """The graph in Graphviz's language; equal graphs give equal text."""
    lines = ["digraph plan {", '  node [shape=box, style=filled, fontname="Helvetica"];']
    for node, about in graph.nodes(data=True):
        label = f"{about['title']}\n{about['about']}"
        lines.append(
            f"  {_quoted(node)} [label={_quoted(label)}, tooltip={_quoted(about['detail'])}, "
            f"fillcolor={_quoted(fill_of(about))}];"
        )
    lines += [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: Hashable) -> str:
    clean = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{clean}"'


def fill_of(about: dict[str, object]) -> str:
    """Colour of a box: the warmer, the larger its share of the time."""
    share = about["share"]
    assert isinstance(share, float)
    heat = min(1.0, share / 0.08)
    low, high = (246, 247, 249), (255, 176, 102)
    mixed = [round(a + (b - a) * heat) for a, b in zip(low, high, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def to_svg(graph: nx.DiGraph) -> str:
    """The graph as a drawing that needs nothing else."""
    layout = layered(graph, BOX, GAP)
    style = (
        "text{font:11px Helvetica,Arial,sans-serif;fill:#1d2733}.s{fill:#5b6775;font-size:10px}"
        ".e{fill:none;stroke:#9aa5b1}.g{fill:#eef2f6;stroke:none}.gl{fill:#8592a0}"
        ".b{stroke:#b6c0ca}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width:.0f} '
        f'{layout.height:.0f}" width="{layout.width:.0f}" height="{layout.height:.0f}">\n'
        f"<style>{style}</style>\n{drawing(graph, layout)}</svg>\n"
    )


def drawing(graph: nx.DiGraph, layout: Layout, indent: float = 0.0) -> str:
    """The elements of the drawing: groups, edges, boxes.

    Args:
        graph: the graph.
        layout: where its nodes lie.
        indent: room to leave at the left of the text of each box.
    """
    groups = _drawn_groups(graph)
    parts = [_group(name, nodes, layout) for name, nodes in groups.items()]
    for (source, target), points in layout.routes.items():
        parts.append(f'<path class="e" data-e="{source} {target}" d="{_curve(points)}"/>')
    for node, about in graph.nodes(data=True):
        x, y = layout.centres[node]
        left, top = x - BOX[0] / 2, y - BOX[1] / 2
        letters = int(_LETTERS - indent / 6.2)
        title = about["title"]
        if about["group"] in groups:
            title = title.removeprefix(f"{about['group']}.")
        parts.append(
            f'<g class="n" data-n="{escape(str(node))}"><title>{escape(about["detail"])}</title>'
            f'<rect class="b" x="{left:.1f}" y="{top:.1f}" width="{BOX[0]:.0f}" '
            f'height="{BOX[1]:.0f}" rx="5" fill="{fill_of(about)}"/>'
            f'<text x="{left + 8 + indent:.1f}" y="{top + 16:.1f}">'
            f"{escape(_shortened(title, letters))}</text>"
            f'<text class="s" x="{left + 8 + indent:.1f}" y="{top + 31:.1f}">'
            f"{escape(_shortened(about['about'], letters + 3))}</text></g>"
        )
    return "\n".join(parts) + "\n"


def _shortened(text: str, letters: int) -> str:
    """The text, or its end: the last part of a layer's name tells it from others."""
    return text if len(text) <= letters else "\u2026" + text[-(letters - 1) :]


def _drawn_groups(graph: nx.DiGraph) -> dict[str, list[Hashable]]:
    """Parts of the model that get a frame: of several nodes, and not nearly all of it."""
    members: dict[str, list[Hashable]] = {}
    for node, about in graph.nodes(data=True):
        members.setdefault(about["group"], []).append(node)
    most = 0.5 * len(graph)
    return {name: nodes for name, nodes in members.items() if name and 1 < len(nodes) <= most}


def _group(name: str, nodes: Iterable[Hashable], layout: Layout) -> str:
    xs, ys = zip(*(layout.centres[node] for node in nodes), strict=True)
    left, top = min(xs) - BOX[0] / 2 - 5, min(ys) - BOX[1] / 2 - 8
    width, height = max(xs) - min(xs) + BOX[0] + 10, max(ys) - min(ys) + BOX[1] + 14
    return (
        f'<rect class="g" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="8"/><text class="s gl" x="{left + 6:.1f}" '
        f'y="{top - 2:.1f}">{escape(name)}</text>'
    )


def _curve(points: Iterable[Point]) -> str:
    """A smooth path: vertical where it leaves a point and where it reaches the next."""
    found = list(points)
    parts = [f"M{found[0][0]:.1f},{found[0][1]:.1f}"]
    for (x, y), (u, v) in pairwise(found):
        middle = (y + v) / 2
        parts.append(f"C{x:.1f},{middle:.1f} {u:.1f},{middle:.1f} {u:.1f},{v:.1f}")
    return "".join(parts)
