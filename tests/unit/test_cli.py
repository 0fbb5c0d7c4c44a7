import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import kqo
from kqo.__main__ import main
from kqo.interop.images import load_image
from kqo.interop.preprocess import Preprocess
from kqo.workloads import Occlusion
from tests.unit.dense_plan import DensePlan

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tests.unit.test_cli:Small"
SMALL = (MODEL, "--input-size", "24", "--window", "6", "--stride", "3")


class Small(nn.Module):
    """A model of two layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        return self.last(self.net(x).flatten(1))


@pytest.fixture
def compiled(monkeypatch):
    """Has kqo.compile give dense plans, and remembers them with their options."""
    made = []

    def fake(model, inputs, workload, *, options=None, name="", preprocess=None):
        assert tuple(inputs[0].shape[1:]) == workload.resolve(tuple(inputs[0].shape[1:])).shape
        plan = DensePlan(model, workload, name, preprocess)
        made.append((plan, options))
        return plan

    monkeypatch.setattr(kqo, "compile", fake, raising=False)
    return made


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """Has kqo.load give one plan, whatever the file."""
    preprocess = Preprocess((24, 24), classes=("a", "b", "c", "d", "e"))
    plan = DensePlan(Small().eval(), Occlusion(6, 3), "small", preprocess)
    monkeypatch.setattr(kqo, "load", lambda path: plan, raising=False)
    return plan


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def fails(capsys, *arguments, code=2):
    """The one line that a failing command prints."""
    assert main(list(map(str, arguments))) == code
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("kqo: error: "), captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "nothing"),
        (["explain"], "MODEL"),
        (["explain", "vgg61"], "vgg16"),
        (["explain", "no_such:thing"], "no_such"),
        (["explain", "missing.pt2"], "missing.pt2"),
        (["explain", MODEL, "--unknown"], "--unknown"),
        (["explain", MODEL, "--window", "big"], "window"),
        (["explain", MODEL, "--window", "0"], "window"),
        (["explain", MODEL, "--window", "500"], "500"),
        (["explain", MODEL, "--stride", "-1"], "stride"),
        (["explain", MODEL, "--fill", "noise"], "fill"),
        (["explain", MODEL, "--fill", "1,2"], "fill"),
        (["explain", MODEL, "--fill", "missing.npy"], "missing.npy"),
        (["explain", MODEL, "--roi", "1,2"], "roi"),
        (["explain", MODEL, "--roi", "5:5"], "roi"),
        (["explain", MODEL, "--positions", "a,b"], "positions"),
        (["explain", MODEL, "--positions", "1,2;3"], "positions"),
        (["explain", MODEL, "--positions", "900,900"], "positions"),
        (["explain", MODEL, "--tau", "1.5"], "tau"),
        (["explain", MODEL, "--threads", "0"], "threads"),
        (["explain", MODEL, "--threads", "two"], "threads"),
        (["explain", MODEL, "--memory", "lots"], "memory"),
        (["explain", MODEL, "--target", "tpu"], "target"),
        (["explain", MODEL, "--rules", "missing"], "missing"),
        (["explain", MODEL, "--shape", "3,x"], "shape"),
        (["explain", MODEL, "--shape", "3,0,9"], "shape"),
        (["explain", MODEL, "--input-size", "1,2,3"], "input-size"),
        (["explain", MODEL, "--shape", "3,9,9", "--input-size", "9"], "input-size"),
        (["explain", MODEL, "--weights", "missing.safetensors"], "missing.safetensors"),
        (["compile", MODEL], "--source"),
        (["compile", MODEL, "-o", "missing/f.kqo"], "missing"),
        (["compile", MODEL, "-o", "f.kqo", "--std", "0"], "std"),
        (["compile", MODEL, "-o", "f.kqo", "--mean", "a"], "mean"),
        (["compile", MODEL, "-o", "f.kqo", "--channels", "hsv"], "channels"),
        (["compile", MODEL, "-o", "f.kqo", "--classes", "missing.txt"], "missing.txt"),
        (["run", "f.kqo", "-o", "out"], "IMAGE"),
        (["bench", MODEL, "--batches", "0"], "batches"),
        (["bench", MODEL, "--batches", "x"], "batches"),
        (["bench", MODEL, "--image", "missing.png"], "missing.png"),
        (["demo", "--image", "tulip"], "image: got 'tulip'"),
        (["fmt", "missing.rules"], "missing.rules"),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, compiled, arguments, says):
    assert says in fails(capsys, *arguments)


def test_an_error_of_our_own_is_one_line_and_code_1(capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(kqo, "compile", broken, raising=False)
    line = fails(capsys, "explain", *SMALL, code=1)
    assert "RuntimeError: two lines" in line and "--debug" in line
    assert main(["--debug", "explain", *SMALL]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_an_error_of_the_users(capsys, monkeypatch, compiled):
    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(DensePlan, "save", full)
    assert "small.kqo: No space left" in fails(capsys, "compile", *SMALL, "-o", "small.kqo")


def test_an_interrupt_is_code_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kqo, "compile", interrupted, raising=False)
    assert "interrupted" in fails(capsys, "explain", *SMALL, code=130)


def test_explain_prints_the_plan(capsys, compiled):
    assert main(["explain", *SMALL, "--tau", "0.5", "--without", "A", "--without", "B"]) == 0
    assert capsys.readouterr().out == "Small: the plan explained\n"
    ((plan, options),) = compiled
    assert options.tau == 0.5 and options.without == ()
    assert plan.asked["without"] == ("A", "B")
    assert plan.workload == Occlusion(6, 3)


def test_the_workload_of_a_command_line(compiled, tmp_path):
    np.save(tmp_path / "fill.npy", np.ones((3, 1, 1)))
    np.save(tmp_path / "starts.npy", np.array([[1, 2]]))
    model = (MODEL, "--shape", "3,24,20")
    for given, expected in (
        (["--window", "6,4", "--stride", "3,2"], Occlusion((6, 4), (3, 2))),
        (["--fill", "mean"], Occlusion(16, 4, fill="mean")),
        (["--fill", "0.1,0.2,0.3"], Occlusion(16, 4, fill=(0.1, 0.2, 0.3))),
        (["--fill", "-1.5"], Occlusion(16, 4, fill=-1.5)),
        (["--fill", str(tmp_path / "fill.npy")], Occlusion(16, 4, fill=np.ones((3, 1, 1)))),
        (["--roi", "0:5,2:5"], Occlusion(16, 4, roi=((0, 5), (2, 5)))),
        (["--positions", "1,2;3,4"], Occlusion(16, 4, positions=[[1, 2], [3, 4]])),
        (["--positions", str(tmp_path / "starts.npy")], Occlusion(16, 4, positions=[[1, 2]])),
    ):
        assert main(["explain", *model, *given]) == 0
        assert compiled[-1][0].workload == expected, given


def test_compile_writes_the_plan_and_prints_the_source(capsys, compiled, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n\neel\n")
    output = tmp_path / "small.kqo"
    images = ("--mean", "0.5", "--std", "0.25", "--classes", str(tmp_path / "names.txt"))
    assert main(["compile", *SMALL, "-o", str(output), "--source", *images]) == 0
    assert output.read_bytes() == b"saved"
    captured = capsys.readouterr()
    assert captured.out == "# the source of the plan\n\n" and "small.kqo" in captured.err
    preprocess = compiled[0][0].preprocess
    assert preprocess.size == (24, 24) and preprocess.classes == ("cat", "dog", "eel")
    assert preprocess.mean == (0.5,) and preprocess.std == (0.25,) and preprocess.channels == "rgb"


def test_run_writes_pictures_scores_and_a_summary(capsys, saved, photo, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.png").write_bytes(photo.read_bytes())
    out = tmp_path / "deep" / "out"
    images = [str(photo), str(other / "photo.png")]
    assert main(["run", "f.kqo", *images, "-o", str(out), "--verify", "3"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["photo-2.npz", "photo-2.png", "photo.npz", "photo.png", "summary.json"]
    assert saved.verified == [3, 3]
    with Image.open(out / "photo.png") as picture:
        assert min(picture.size) > 100
    with np.load(out / "photo.npz") as found:
        assert found["scores"].shape == (49, 5)
    summary = json.loads((out / "summary.json").read_text())
    found = summary["results"][0]
    assert found["image"] == images[0] and found["files"] == ["photo.png", "photo.npz"]
    assert found["images"][0]["class_name"] in "abcde"
    assert str(photo) in capsys.readouterr().out


def test_an_image_that_is_not_finite_has_a_picture_too(capsys, saved, photo, tmp_path):
    np.save(tmp_path / "nan.npy", np.full((3, 24, 24), np.nan, dtype=np.float32))
    images = [str(tmp_path / "nan.npy"), str(photo)]
    assert main(["run", "f.kqo", *images, "-o", str(tmp_path)]) == 0
    assert {"nan.png", "nan.npz", "photo.png"} <= {path.name for path in tmp_path.iterdir()}
    text = (tmp_path / "summary.json").read_text()
    first, second = json.loads(text, parse_constant=pytest.fail)["results"]
    assert first["images"][0]["score"] is None and second["images"][0]["score"] is not None


@pytest.mark.parametrize("positions", [[[1, 1], [5, 9]], [[0, 0], [3, 3], [6, 0]]])
def test_run_draws_positions_that_fill_no_lattice(saved, photo, tmp_path, positions):
    saved.workload = Occlusion(6, 3, positions=positions)
    assert main(["run", "f.kqo", str(photo), "-o", str(tmp_path), "--class", "b"]) == 0
    assert (tmp_path / "photo.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.png", "-o", "{folder}/out"], "missing.png"),
        (["{photo}", "-o", "{photo}"], "output"),
        (["{photo}", "-o", "{folder}/out", "--class", "9"], "target"),
        (["{photo}", "-o", "{folder}/out", "--class", "zebra"], "a, b, c, d, e"),
        (["{photo}"], "--output"),
        (["{photo}", "-o", "{folder}/out", "--verify", "-1"], "--verify"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_run_with_bad_input(capsys, photo, tmp_path, arguments, says):
    given = [text.format(photo=photo, folder=tmp_path) for text in arguments]
    assert says in fails(capsys, "run", "f.kqo", *given)
    assert not list(tmp_path.glob("out/*"))


def test_run_needs_preprocessing(capsys, saved, photo, tmp_path):
    saved.preprocess = None
    assert "preprocessing" in fails(capsys, "run", "f.kqo", photo, "-o", tmp_path)


def test_bench_prints_a_table_or_json(capsys, compiled, photo):
    given = ["bench", *SMALL, "--batches", "1,2", "--sample", "3", "--repeats", "1"]
    assert main([*given, "--image", str(photo)]) == 0
    assert "PyTorch" in capsys.readouterr().out
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["positions"] == 49 and found["sampled"] == 3
    assert found["rows"][0]["engine"] == "kqo" and found["error"] < 1e-5


def test_help_lists_the_commands():
    found = subprocess.run(
        [sys.executable, "-m", "kqo", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for command in ("demo", "explain", "compile", "run", "bench", "rules", "fmt"):
        assert command in found.stdout


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from kqo.__main__ import main; main(['compile', '--help']); "
        "print([n for n in ('torch', 'numpy', 'matplotlib') if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from kqo.__main__ import main; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=30)
    assert errors == b"" and process.returncode == 0


def test_from_model_to_heatmap(capsys, photo, tmp_path):
    """The real thing: compile to a file, run it on an image, check samples, read it back."""
    plan, out = tmp_path / "small.kqo", tmp_path / "out"
    assert main(["compile", *SMALL, "-o", str(plan)]) == 0
    assert main(["run", str(plan), str(photo), "-o", str(out), "--verify", "5"]) == 0
    found = json.loads((out / "summary.json").read_text())["results"][0]
    assert found["positions"] == 49 and found["grid"] == [7, 7]
    assert found["verified"] == 5 and found["error"] <= 1e-5
    loaded = kqo.load(plan)
    expected = loaded.run(load_image(photo, loaded.preprocess))
    with np.load(out / "photo.npz") as scores:
        np.testing.assert_array_equal(scores["scores"], expected.scores)
    capsys.readouterr()
    assert main(["explain", *SMALL]) == 0
    # Weights are random, and a file does not keep the layers' names; all else is the same plan.
    head = capsys.readouterr().out.splitlines()[:3]
    assert head == loaded.explain().splitlines()[:3] and head[0].startswith("EXACT")


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b"x" * 1000])
def test_a_damaged_plan_file_is_an_error(capsys, photo, tmp_path, damage):
    plan = tmp_path / "small.kqo"
    assert main(["compile", *SMALL, "-o", str(plan)]) == 0
    capsys.readouterr()
    plan.write_bytes(damage(plan.read_bytes()))
    assert "small.kqo" in fails(capsys, "run", plan, photo, "-o", tmp_path / "out")


def test_a_rule_file_that_does_not_parse_is_an_error(capsys, tmp_path):
    (tmp_path / "normalize").mkdir()
    (tmp_path / "normalize" / "wrong.rules").write_text("rule Wrong exact {\n  match ???\n}\n")
    line = fails(capsys, "explain", *SMALL, "--rules", tmp_path)
    assert "wrong.rules:2:" in line


def test_a_rule_that_does_not_exist_is_an_error(capsys):
    assert "NoSuchRule" in fails(capsys, "explain", *SMALL, "--without", "NoSuchRule")


def test_a_plan_file_runs_without_torch(capsys, photo, tmp_path):
    plan = tmp_path / "small.kqo"
    assert main(["compile", *SMALL, "-o", str(plan)]) == 0
    code = (
        "import sys; sys.modules['torch'] = None; from kqo.__main__ import main; "
        f"sys.exit(main(['run', {str(plan)!r}, {str(photo)!r}, '-o', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "photo.png").exists()


def test_a_plan_file_is_explained(tmp_path, capsys):
    path = tmp_path / "small.kqo"
    assert main(["compile", *SMALL, "-o", str(path)]) == 0
    capsys.readouterr()
    assert main(["explain", str(path)]) == 0
    assert capsys.readouterr().out.rstrip("\n") == kqo.load(path).explain().rstrip("\n")
    assert main(["explain", str(path), "--stride", "3"]) == 2
    assert "stride" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none.kqo")]) == 2


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(monkeypatch, capsys):
    def warned(*args, **options):
        warnings.warn("On NumPy, not on a GPU:\nno room.", RuntimeWarning, stacklevel=2)

    monkeypatch.setattr("kqo.cli.app", warned)
    assert main(["explain"]) == 0
    assert capsys.readouterr().err == "kqo: warning: On NumPy, not on a GPU: no room.\n"
