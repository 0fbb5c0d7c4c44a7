"""Where rows lie on a device: delta rows share memory, never at the same time."""

from __future__ import annotations

import itertools

import pytest

import kqo
from kqo.emit.cuda_rows import PADDING_ROWS
from kqo.errors import ArgumentError
from kqo.ir.boxes import with_untouched
from kqo.runtime.budget import check_budget
from kqo.runtime.cuda.buffers import Capacities
from kqo.runtime.cuda.memory import NARROW, lay_out, lives
from kqo.runtime.cuda.regions import bind_regions
from tests.cuda.host import HostDevice
from tests.cuda.planned import Case, everything, small


@pytest.fixture(scope="module", params=["everything", "inception_v3"])
def case(request) -> Case:
    return everything() if request.param == "everything" else small(request.param)


def test_rows_that_are_needed_at_once_do_not_overlap(case):
    plan, program = case.planned(), case.program()
    rows = {t.id: 7 * (t.id % 5 + 1) for t in plan.tables if t.region is not None}
    found = lay_out(plan, rows, program.placed)
    alive = lives(plan, program.placed)
    always = (0, len(plan.steps))
    spans = []
    for table, first in zip(plan.tables, found.tables, strict=True):
        own = PADDING_ROWS + (table.rows if table.view else 0)
        spans.append((first, first + own * table.columns, always))
        if table.id in found.starts:
            at = first + found.starts[table.id] * table.columns
            spans.append((at, at + rows[table.id] * table.columns, alive[table.id]))
    for (a, b, one), (c, d, other) in itertools.combinations(spans, 2):
        apart = one[1] < other[0] or other[1] < one[0]
        assert apart or b <= c or d <= a
    assert max(end for _, end, _ in spans) <= found.elements
    assert set(found.starts) == set(rows) - set(program.placed)


def test_narrow_tables_keep_their_own(case):
    plan = case.planned()
    rows = {t.id: 5 for t in plan.tables if t.region is not None}
    found = lay_out(plan, rows, {})
    for table in plan.tables:
        if table.id in rows and table.columns < NARROW:
            view = table.rows if table.view else 0
            assert found.starts[table.id] == PADDING_ROWS + view


def test_sharing_saves_memory():
    case = Case(kqo.zoo.build("vgg16", width=0.3, num_classes=7), ((3, 32, 32),), 4)
    plan = case.planned()
    regions = bind_regions(plan, with_untouched(case.changed))
    sizes = Capacities(plan, case.program(), regions, 8)
    apart = sum(sizes.most[r] * plan.tables[t].columns for t, r in regions.of.items())
    views = lay_out(plan, {}, {}).elements
    assert sizes.layout.elements - views < apart / 2


def test_the_least_budget_is_one_query_at_a_time(case, tmp_path):
    least = case.engine(HostDevice(tmp_path), batch=20).least_bytes
    engine = case.engine(HostDevice(tmp_path), memory=least)
    assert engine.batch == 1
    check_budget(least, engine)
    with pytest.raises(ArgumentError, match=f"memory: got {least - 1} bytes; .* least {least} "):
        check_budget(least - 1, engine)
