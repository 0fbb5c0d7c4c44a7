"""``kqo rules test``: what holds, what does not, what cannot be said, and how a rule is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kqo.__main__ import main
from kqo.cli.rules import FAILED, UNPROVEN
from kqo.prove.choices import Recorded, shrink

DOUBLE = """## DoubleOfSum doubles the parts of a sum.
rule DoubleOfSum exact {
  match   Map(input: Join(left: $x, right: $y, on: [], axes: [], combine: add), fn: "v * 2")
  replace Join(
            left: Map(input: $x, fn: "v * 2"),
            right: Map(input: $y, fn: "v * 2"),
            on: [], axes: [], combine: add)
}
"""
WRONG = """## MaxOfNegated takes the larger of two for their difference.
rule MaxOfNegated exact {
  match   Join(left: $x, right: Map(input: $y, fn: "neg(v)"), on: [], axes: [], combine: max)
  replace Join(left: $x, right: $y, on: [], axes: [], combine: sub)
}
"""
NARROW = """## NarrowHoist recomputes what changed, and forgets the windows that reach it.
rule NarrowHoist exact {
  match   $n @ Group(
            input: Join(
              left: $x @ Overlay(base: $old, at: $box),
              right: $w, on: $on, axes: $axes, combine: $f),
            by: $by, agg: $agg)
  where   not varies($w), axes_of($n) == axes_of($x)
  replace Overlay(
            base: Group(
              input: Join(left: $old, right: $w, on: $on, axes: $axes, combine: $f),
              by: $by, agg: $agg),
            patch: Slice(input: $n, at: $box),
            at: $box)
}
"""
WINOGRAD = """## WinogradAnywhere takes any window for one that Winograd's method computes.
rule WinogradAnywhere exact {
  match   Group(
            input: Join(left: $x, right: $k, on: $on, axes: $axes, combine: mul),
            by: $by, agg: sum)
  where   is_matrix_product($x, $k, $on, $axes, $by)
  replace Physical(
            form: winograd, input: $x, weight: $k, on: $on, axes: $axes, by: $by, combine: mul,
            agg: sum, tail: "v", operands: [], tile: 2)
}
"""
OFF = """## ClipAnyway clips at its neutral value, too.
rule ClipAnyway approx(tau = 1) {
  match   $o @ Overlay(base: $old, patch: Slice(input: $n, at: $box), at: $box)
  where   not is_clip($box)
  let     $less = clip($box, 0.4, $o)
  replace Overlay(base: $old, patch: Slice(input: $n, at: $less), at: $less)
}
"""
NEVER = """## NeverThere has guards that exclude each other.
rule NeverThere exact {
  match   Map(input: $x, fn: "v + 1")
  where   is_const($x), not is_const($x)
  replace $x
}
"""
SWAP = """## SwapSum puts the right side of a sum on the left.
rule SwapSum exact {
  match   Join(left: $x, right: $y, on: [], axes: [], combine: add)
  where   axes_of($x) == axes_of($y)
  replace Join(left: $y, right: $x, on: [], axes: [], combine: add)
}
"""
LOST = """## LostAxes forgets what it groups by.
rule LostAxes exact {
  match   Group(input: Join(left: $x, combine: mul), agg: sum)
  replace Group(input: $x, by: [], agg: sum)
}
"""
CLIP_TO_ALL = """## ClipToAll clips a region to all of itself.
rule ClipToAll exact {
  match   $o @ Overlay(base: $old, patch: Slice(input: $n, at: $box), at: $box)
  where   not is_clip($box)
  let     $same = clip($box, 1, $o)
  replace Overlay(base: $old, patch: Slice(input: $n, at: $same), at: $same)
}
"""
MARK_CLIPPED = """## MarkClipped marks what was clipped by a map.
rule MarkClipped exact {
  match   Overlay(base: $old @ Map(fn: "v * 2"), patch: Slice(input: $n, at: $box), at: $box)
  where   is_clip($box)
  replace Overlay(
            base: Map(input: $old, fn: "v + 0"),
            patch: Slice(input: $n, at: $box),
            at: $box)
}
"""
EXPONENT = """## AddExponents adds exponents for the product of powers.
rule AddExponents exact {
  match   Join(
            left: Map(input: $x, fn: "exp(v)"),
            right: Map(input: $y, fn: "exp(v)"),
            on: [], axes: [], combine: mul)
  replace Map(input: Join(left: $x, right: $y, on: [], axes: [], combine: add), fn: "exp(v)")
}
"""


@pytest.fixture
def told(tmp_path, capsys):
    """Runs the command on a rule of a family; gives the exit code and what was printed."""

    def run(text: str, family: str = "normalize", *options: str) -> tuple[int, str]:
        path = tmp_path / "mine" / family / "mine.rules"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        code = main(["rules", "test", str(path), "--examples", "6", *options])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return code, found.out + found.err

    return run


def block(text: str, title: str) -> list[str]:
    """The lines of one part of a counterexample."""
    lines = text.splitlines()
    start = lines.index(f"{title}:") + 1
    return [line.strip() for line in lines[start : lines.index("", start)]]


def test_a_right_rule_holds_in_every_evaluation(told):
    code, text = told(DOUBLE)
    assert code == 0
    line = next(line for line in text.splitlines() if line.startswith("DoubleOfSum"))
    assert "holds (rationals" in line and "DuckDB" in line and "torch" in line and "run" in line


def test_a_counterexample_is_small_and_says_which_tuple_differs(told):
    code, text = told(WRONG)
    assert code == FAILED
    assert "MaxOfNegated (normalize/mine.rules:2:6) does not hold." in text
    assert "before, " in text and "after (rationals)" in text
    before, after = block(text, "before"), block(text, "after")
    assert any("combine: max" in line for line in before)
    assert any("combine: sub" in line for line in after)
    assert len(before) <= 8, "the plan is as small as the rule admits"
    assert told(WRONG) == (code, text), "the same seed gives the same counterexample"


def test_a_hoist_that_forgets_the_window_fails(told):
    code, text = told(NARROW, "delta")
    assert code == FAILED
    assert any(
        line.startswith("query 0 changes (") for line in text.split("on:")[-1].split("\n    ")
    )


def test_an_implementation_that_cannot_compute_fails_when_it_is_run(told):
    code, text = told(WINOGRAD, "physical")
    assert code == FAILED and "the plan cannot be run" in text


def test_an_approximate_rule_has_to_be_exact_at_its_neutral_value(told):
    code, text = told(OFF, "prune")
    assert code == FAILED and "at tau = 1, where it has to be exact" in text
    assert told(OFF.replace("0.4", "$tau"), "prune")[0] == 0


def test_a_rule_that_never_fires_is_not_proven(told):
    code, text = told(NEVER)
    assert code == UNPROVEN and "NOT PROVEN: it never fired" in text
    code, text = told(NEVER + "\n" + WRONG)
    assert code == FAILED and "NOT PROVEN" in text


def test_a_rule_about_what_torch_runs_cannot_be_proven(told):
    text = NEVER.replace("input: $x", "input: $x @ Opaque()")
    code, said = told(text)
    assert code == UNPROVEN and "Opaque, which torch runs" in said


def test_functions_that_leave_the_rationals_are_compared_within_a_tolerance(told):
    code, text = told(EXPONENT)
    assert code == 0 and "holds" in text
    assert told(EXPONENT.replace("combine: add", "combine: sub"))[0] == FAILED


def test_rules_that_chase_each_other_fail(told):
    code, text = told(SWAP)
    assert code == FAILED and "in a circle" in text and "SwapSum" in text


def test_a_replacement_with_other_axes_fails(told):
    code, text = told(LOST)
    assert code == FAILED and "a guard is missing" in text


def test_rules_answer_for_themselves(told):
    """One wrong rule of a file does not make the others fail."""
    code, text = told(DOUBLE + "\n" + WRONG)
    assert code == FAILED
    assert next(x for x in text.splitlines() if x.startswith("DoubleOfSum")).count("holds") == 1


def test_a_rule_that_reads_what_another_of_the_file_makes_is_tried_beside_it(told):
    alone, text = told(MARK_CLIPPED, "delta")
    assert alone == UNPROVEN
    code, text = told(CLIP_TO_ALL + "\n" + MARK_CLIPPED, "delta")
    assert code == 0 and "fires only beside ClipToAll" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.rules"], "absent.rules, which does not exist"),
        (["stray.rules"], "--family"),
        (["stray.rules", "--family", "norm"], "normalize, delta, batch, prune, physical"),
        (["stray.rules", "--family", "normalize", "--examples", "0"], "a whole number from 1"),
        (["empty.rules", "--family", "delta"], "files that hold rules"),
        (["broken.rules", "--family", "delta"], "broken.rules:1:"),
        (["bytes.rules", "--family", "delta"], "cannot be read"),
        (["nothing"], "a folder that holds some of"),
        ([], "FILE..."),
        (["stray.rules", "stray.rules", "--family", "normalize"], "also defined at"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("stray.rules").write_text(DOUBLE)
    Path("empty.rules").write_text("")
    Path("broken.rules").write_text("rule {")
    Path("bytes.rules").write_bytes(b"\xff\xfe\x00")
    Path("nothing").mkdir()
    assert main(["rules", "test", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_without_duckdb_the_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert main(["rules", "test", "mine.rules"]) == 2
    assert "kqo[sql]" in capsys.readouterr().err


def test_folders_are_tested_as_they_are_loaded(tmp_path, capsys):
    (tmp_path / "normalize").mkdir()
    (tmp_path / "normalize" / "mine.rules").write_text(DOUBLE)
    assert main(["rules", "test", str(tmp_path), "--examples", "2"]) == 0
    assert "DoubleOfSum" in capsys.readouterr().out


def test_shrinking_finds_the_smallest_list():
    def measure(made):
        choices = Recorded(made)
        drawn = [choices.integer(0, 50) for _ in range(choices.integer(0, 9))]
        return (len(drawn),) if sum(drawn) >= 60 else None

    start = (9, *[20] * 9)
    assert measure(start) is not None
    small = shrink(start, measure)
    assert small == (3, 20, 20, 20), "numbers only ever become smaller"
