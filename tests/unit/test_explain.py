"""EXPLAIN: stages, formats, what rules did, and measured times beside estimates."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import networkx as nx
import numpy as np
import pytest
import torch

import kqo
from kqo.__main__ import main
from kqo.errors import ArgumentError
from kqo.explain import document, render
from kqo.explain.layout import layered
from kqo.explain.text import WIDTH, table
from kqo.ir.interpret import interpret
from kqo.ir.text import format_plan, parse_plan
from kqo.ir.verify import verify
from tests.unit.test_explain_sql import SHAPE, Residual

MODEL = ("tests.unit.test_explain_sql:Residual", "--shape", "3,10,10")
SCHEMA = json.loads(Path(document.__file__).with_name("explain.schema.json").read_text())


def compiled(**options):
    torch.manual_seed(0)
    options = kqo.Options(threads=1, **options)
    return kqo.compile(
        Residual().eval(), (torch.zeros(1, *SHAPE),), kqo.Occlusion(3, 2), options, name="Residual"
    )


@pytest.fixture(scope="module")
def plan():
    return compiled()


def test_one_query_costs_its_views_too():
    workload = kqo.Occlusion(3, 100)
    text = kqo.compile(Residual().eval(), (torch.zeros(1, *SHAPE),), workload).explain()
    first, second, *_ = text.splitlines()
    assert first.endswith(": 1 query in batches of 1")
    assert second.endswith("x fewer with the views")


class Bare(torch.nn.Module):
    """One module; what else it computes belongs to none."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        pooled = torch.nn.functional.max_pool2d(self.conv(x), 2)
        return torch.softmax(pooled.mean((2, 3)), 1)


def test_what_no_module_computes_is_called_by_its_operator(tmp_path):
    plan = kqo.compile(Bare().eval(), (torch.zeros(1, 3, 10, 10),), kqo.Occlusion(3, 2))
    plan.save(tmp_path / "bare.kqo")
    for found in (plan, kqo.load(tmp_path / "bare.kqo")):
        steps = json.loads(found.explain(format="json"))["steps"]
        called = [step["layer"] for step in steps]
        assert list(dict.fromkeys(called)) == ["image", "conv", "max_pool", "mean", "softmax"]
        assert re.search(r"\d max_pool +max 2x2 ", found.explain())


@pytest.fixture(scope="module")
def loaded(plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.kqo"
    plan.save(path)
    return kqo.load(path)


def test_text_is_a_screen_wide_and_says_what_the_plan_is(plan):
    text = plan.explain()
    lines = text.splitlines()
    assert lines[0].startswith("EXACT incremental plan of Residual: 25 queries")
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("predicted: ") and "reference rates" in line for line in lines)
    shown = {line.rsplit("  ", 1)[-1] for line in lines}
    assert {step.rule for step in plan.physical.steps if step.delta and step.rule} <= shown
    assert str(plan) == text
    assert (
        compiled(approximations={"tau": 0.5})
        .explain()
        .startswith("APPROXIMATE (ClipProjectiveField: tau = 0.5)")
    )


def test_long_names_of_layers_give_way_to_those_of_rules():
    rows = [
        ("step", "operator", f"{'rows':>30}", "rule"),
        ("  7 backbone.stage4.block12.branch7x7dbl_4", "gather-GEMM 7x7", " " * 30, "R" * 24),
        (" 11 fc", "GEMM", " " * 30, "GatherProduct"),
    ]
    lines = table(rows)
    assert max(map(len, lines)) <= WIDTH
    assert lines[1].endswith("R" * 24) and lines[1].startswith("  7 ..")
    assert "branch7x7dbl_4 gather-GEMM 7x7 " in lines[1]


@pytest.mark.parametrize("stage", ["logical", "normalized", "delta"])
def test_logical_stages_are_plans_that_read_back(plan, stage):
    text = plan.explain(stage=stage)
    assert format_plan(parse_plan(text, {}, "x")) == text
    verify(plan.subject().plan(stage))


def test_the_delta_plan_means_what_the_workload_asks(plan):
    image = np.random.default_rng(0).standard_normal(SHAPE)
    boxes = plan.placed.boxes(plan.scan.axes)
    regions = {
        plan.scan.name: [
            [tuple(zip(lo.tolist(), hi.tolist(), strict=True)) for lo, hi in zip(a, b, strict=True)]
            for a, b in zip(boxes.lo, boxes.hi, strict=True)
        ]
    }
    asked, delta = plan.workload.apply(plan.logical), plan.subject().plan("delta")
    wanted = interpret(asked, {plan.scan.name: image}, regions)["output"]
    found = interpret(delta, {plan.scan.name: image}, regions)["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    layers = {delta.origins[n].layer for n in delta.nodes() if n in delta.origins}
    assert {"first", "pool"} & layers


def test_the_source_stage_is_what_runs(plan):
    assert plan.explain(stage="source") == plan.source


def test_the_same_plan_gives_the_same_bytes(plan):
    again = compiled()
    for stage in ("logical", "delta", "physical"):
        for format in ("text", "json", "dot", "svg"):
            one = plan.explain(stage=stage, format=format)
            assert one == again.explain(stage=stage, format=format)
    assert plan.explain(format="html") == again.explain(format="html")
    assert plan.explain(steps=True) == again.explain(steps=True)


def test_a_loaded_plan_has_no_stage_before_normalizing(loaded):
    assert "Overlay" in loaded.explain(stage="delta")
    with pytest.raises(ArgumentError, match="'logical', of a plan that was loaded from a file"):
        loaded.explain(stage="logical")
    with pytest.raises(ArgumentError, match="loaded from a file"):
        loaded.explain(rule="FoldScaleIntoKernel")
    with pytest.raises(ArgumentError, match="loaded from a file"):
        loaded.explain(without="FoldScaleIntoKernel")
    assert "Saved" in loaded.explain(rule="MaterializeView")


def test_a_rules_applications_before_and_after(plan):
    text = plan.explain(rule="FoldConstants")
    count = sum(a.rule == "FoldConstants" for a in plan.subject().applications())
    assert f"fired {count} times" in text.splitlines()[0] and count > 1
    assert text.count("  before\n") == text.count("  after\n") == count
    once = plan.explain(rule="FoldScaleIntoKernel")
    assert "fired once" in once.splitlines()[0]
    before = once.split("  before\n")[1].split("  after\n")[0]
    assert "agg: sum" in before and "combine: mul" in before
    assert "another way to compute" in plan.explain(rule="HoistOverlayThroughWindow")
    assert "did nothing" in plan.explain(rule="ClipProjectiveField")
    with pytest.raises(ArgumentError, match="MaterializeView"):
        plan.explain(rule="MaterialiseView")


def test_steps_are_diffs_without_what_stayed(plan):
    text = plan.explain(steps=True)
    heads = [line for line in text.splitlines() if line.startswith("@@ ")]
    assert len(heads) == len(plan.subject().applications())
    assert all(line[:1] in "@+-" for line in text.splitlines())
    for step in re.split(r"^@@ ", text, flags=re.MULTILINE)[1:]:
        lines = step.splitlines()[1:]
        gone = {line[1:] for line in lines if line[0] == "-"}
        new = {line[1:] for line in lines if line[0] == "+"}
        assert not gone & new
    one = plan.explain(steps=True, rule="FoldScaleIntoKernel")
    assert one.count("@@ ") == one.count("FoldScaleIntoKernel: ")


@pytest.mark.parametrize("rule", ["delta", "HoistOverlayThroughWindow", "FoldScaleIntoKernel"])
def test_a_plan_without_a_rule_and_what_that_costs(plan, rule):
    text = plan.explain(without=rule)
    assert re.match(rf"without {rule}: predicted .* per input; with it .* \(", text)
    applied = text.split("rules applied:")[1]
    assert f" {rule} " not in applied
    if rule == "delta":
        # Where there is work enough to outweigh that steps without it are fewer.
        layers = [torch.nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32)]
        model, image = torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, 64, 64)
        text = kqo.compile(model, (image,), kqo.Occlusion(4, 2)).explain(without=rule)
        change = float(re.match(r".*\(([-+][\d.]+)%\)", text.splitlines()[0])[1])
        assert change > 0 and "Hoist" not in applied


def test_analyze_shows_measured_times(plan):
    text = plan.explain(analyze=True)
    assert re.search(r"^measured:  .* per input", text, re.MULTILINE)
    assert "GFLOP/s" in text and max(map(len, text.splitlines())) <= WIDTH
    found = json.loads(plan.explain(format="json", analyze=np.zeros(SHAPE)))
    assert all(step["measured_seconds"] > 0 for step in found["steps"] if step["kind"] == "delta")
    parts = sum(step["measured_seconds"] for step in found["steps"])
    assert parts == pytest.approx(found["run"]["measured_processor_seconds"])


@pytest.mark.parametrize("stage", ["logical", "normalized", "delta", "physical"])
def test_json_is_as_its_schema_says(plan, stage):
    found = json.loads(plan.explain(format="json", stage=stage))
    jsonschema.validate(found, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "stage": "other"}, SCHEMA)
    if stage == "physical":
        assert len(found["steps"]) == len(plan.physical.steps)
        assert found["queries"] == 25 and found["exact"]


def test_json_with_measured_times_is_as_its_schema_says(plan):
    jsonschema.validate(json.loads(plan.explain(format="json", analyze=True)), SCHEMA)


@pytest.mark.parametrize("stage", ["delta", "physical"])
def test_drawings(plan, stage):
    dot = plan.explain(format="dot", stage=stage)
    assert dot.startswith("digraph plan {") and dot.endswith("}\n")
    root = ElementTree.fromstring(plan.explain(format="svg", stage=stage))
    boxes = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "n"]
    assert len(boxes) == dot.count("[label=")


def test_a_layered_drawing_has_no_box_upon_another():
    graph = nx.gnp_random_graph(40, 0.08, seed=1, directed=True)
    graph = nx.DiGraph((a, b) for a, b in graph.edges if a < b)
    layout = layered(graph, (100.0, 30.0), (10.0, 20.0))
    centres = list(layout.centres.values())
    for i, (x, y) in enumerate(centres):
        assert 50 <= x <= layout.width - 50 and 15 <= y <= layout.height - 15
        for u, v in centres[:i]:
            assert abs(x - u) >= 109.9 or abs(y - v) >= 49.9
    for (source, target), points in layout.routes.items():
        downs = [y for _, y in points]
        assert downs == sorted(downs)
        assert layout.centres[source][1] < layout.centres[target][1]


class Tags(HTMLParser):
    """Checks that tags nest; collects ids, and what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.fetched += [attrs[k] for k in ("src", "href") if k in attrs]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(plan):
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    return plan.explain(format="html", analyze=True, image=image)


def test_the_page_is_sound_and_fetches_nothing(plan, page):
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.fetched
    assert len(tags.ids) == len(set(tags.ids))
    assert "@" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data["total"] == 25 and len(data["steps"]) == len(plan.physical.steps)
    assert data["image"]["source"].startswith("data:image/png;base64,")


def chromium():
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )


@pytest.mark.skipif(not chromium(), reason="no chromium")
def test_the_page_opens_in_a_browser(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    asked = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    asked += ["--virtual-time-budget=3000", "--dump-dom", f"{path.as_uri()}#rules"]
    made = subprocess.run(
        [chromium(), *asked], capture_output=True, check=True, text=True, timeout=60
    )
    assert re.search(r'<body[^>]* data-ready="\d+"', made.stdout), made.stderr
    assert 'data-rules="yes"' in made.stdout
    assert "applications</option>" in made.stdout and 'class="row on"' in made.stdout


@pytest.mark.slow
@pytest.mark.skipif(not chromium(), reason="no chromium")
def test_the_page_of_a_large_network_opens_in_under_two_seconds(tmp_path):
    model = kqo.zoo.build("inception_v3").eval()
    large = kqo.compile(model, (torch.zeros(1, 3, 299, 299),), kqo.Occlusion(16, 4))
    path = tmp_path / "page.html"
    path.write_text(large.explain(format="html"), encoding="utf-8")
    asked = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    made = subprocess.run(
        [chromium(), *asked, "--dump-dom", path.as_uri()],
        capture_output=True, check=True, text=True, timeout=60,
    )  # fmt: skip
    ready = re.search(r'<body[^>]* data-ready="(\d+)"', made.stdout)
    assert ready is not None, made.stderr
    assert int(ready[1]) < 2000, "milliseconds from the start of loading"
    assert made.stdout.count('<div class="row') == len(large.physical.steps)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"stage": "emitted"}, "stage: got 'emitted'"),
        ({"format": "xml"}, "format: got 'xml'"),
        ({"format": "html", "stage": "delta"}, "stage: got 'delta' as html"),
        ({"format": "json", "stage": "source"}, "format: got 'json' of the source"),
        ({"format": "json", "steps": True}, "format: got 'json' of what rules did"),
        ({"stage": "delta", "steps": True}, "stage: got 'delta' of what rules did"),
        ({"stage": "delta", "analyze": True}, "analyze: got True with stage 'delta'"),
        ({"format": "svg", "analyze": True}, "got True as svg; accepted: text, json, html"),
        ({"format": "sql", "analyze": True}, "analyze: got True as sql"),
        ({"without": "normalise"}, "did you mean normalize?"),
    ],
)
def test_what_says_nothing_is_an_error(plan, asked, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        plan.explain(**asked)


def test_what_says_nothing_is_refused_before_the_model_is_made(capsys):
    assert main(["explain", "no.such:model", "--format", "xml"]) == 2
    assert "format: got 'xml'" in capsys.readouterr().err


def test_the_command_prints_what_the_api_gives(plan, capsys, tmp_path):
    common = [*MODEL, "--window", "3", "--stride", "2", "--threads", "1"]
    torch.manual_seed(0)
    assert main(["explain", *common, "--stage", "normalized"]) == 0
    printed = capsys.readouterr().out
    assert re.sub(r"#\w+", "#", printed) == re.sub(r"#\w+", "#", plan.explain(stage="normalized"))
    assert main(["explain", *common, "--format", "svg", "-o", str(tmp_path / "a.svg")]) == 0
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert set(render.FORMATS) == {"text", "json", "dot", "svg", "html", "sql"}
