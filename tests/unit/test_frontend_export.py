"""Exporting: inputs, files, numeric types, and errors in plain words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kqo.errors import ArgumentError, ExportError, UnsupportedOperator
from kqo.frontend import lower
from kqo.ir.interpret import interpret
from kqo.ir.verify import verify
from tests.unit.lowering import Function, noise, randomized


def small() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return randomized(layers).float()


IMAGE = noise(3, 6, 5).float()


def score(lowered, image: Tensor = IMAGE) -> np.ndarray:
    verify(lowered.plan)
    return interpret(lowered.plan, {"image": image.double().numpy()})["output"]


def test_the_batch_of_the_example_does_not_matter() -> None:
    model = small()
    roots = [lower(model, (IMAGE.expand(n, 3, 6, 5),), "net").plan.roots for n in (1, 2, 5)]
    assert roots[0] == roots[1] == roots[2]


def test_lowering_leaves_the_model_as_it_was() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lower(model, (IMAGE[None],))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_names_of_plan_and_output() -> None:
    lowered = lower(small(), (IMAGE[None],))
    assert (lowered.plan.name, lowered.output_names) == ("Sequential", ("output",))
    assert lower(small(), (IMAGE[None],), name="net").plan.name == "net"
    nested = Function(lambda x: {"a": x, "b": (x * 2, [x * 3])}).eval()
    assert lower(nested, (IMAGE[None],)).output_names == ("a", "b_0", "b_1_0")


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_saved_program_lowers_to_the_same_scores(batch: int, tmp_path: Path) -> None:
    model = small()
    program = torch.export.export(model, (IMAGE.expand(batch, 3, 6, 5).clone(),))
    torch.export.save(program, tmp_path / "net.pt2")
    wanted = score(lower(model, (IMAGE[None],)))
    from_file = lower(tmp_path / "net.pt2")
    assert from_file.plan.name == "net"
    np.testing.assert_array_equal(score(from_file), wanted)
    np.testing.assert_array_equal(score(lower(program)), wanted)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own
def test_a_program_with_a_symbolic_batch_and_core_operators() -> None:
    model = small()
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (IMAGE.expand(4, 3, 6, 5).clone(),)
    program = torch.export.export(model, example, dynamic_shapes=({0: batch},))
    wanted = score(lower(model, (IMAGE[None],)))
    np.testing.assert_array_equal(score(lower(program, (IMAGE[None],))), wanted)
    np.testing.assert_array_equal(
        score(lower(program.run_decompositions(), (IMAGE[None],))), wanted
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own
def test_core_operators_of_a_decomposed_program() -> None:
    model = randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.MaxPool2d(2), nn.Hardswish(),
            nn.ConvTranspose2d(4, 4, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4),
            nn.Linear(4, 3), nn.Softmax(1),
        )
    ).float()  # fmt: skip
    example = IMAGE.expand(2, 3, 6, 5).clone()
    program = torch.export.export(model, (example,)).run_decompositions()
    np.testing.assert_allclose(
        score(lower(program)), score(lower(model, (example,))), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_float32(dtype: torch.dtype) -> None:
    model = small().to(dtype)
    lowered = lower(model, (IMAGE[None],))
    assert lowered.plan.dtype == "float32"
    assert all(value.dtype == np.float32 for value in lowered.plan.constants.values())
    kind = str(dtype).removeprefix("torch.")
    assert lowered.notes == (f"{kind} weights are computed in float32",)
    with torch.no_grad():
        wanted = model.float()(IMAGE[None])[0]
    np.testing.assert_allclose(score(lowered), wanted, rtol=1e-5, atol=1e-5)


def test_a_float64_model_gives_a_float64_plan() -> None:
    lowered = lower(small().double(), (IMAGE[None],))
    assert lowered.plan.dtype == "float64" and lowered.notes == ()


def test_two_constants_of_one_parameter_keep_apart() -> None:
    weight = nn.Parameter(noise(4, 4).float())

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.weight) + x @ self.weight

    model = Shared().eval()
    x = noise(1, 4).float()
    with torch.no_grad():
        np.testing.assert_allclose(score(lower(model, (x,)), x[0]), model(x)[0], rtol=1e-5)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1).values


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.ReLU(), inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x)


def test_control_flow_on_values_is_said_in_plain_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match="depends on the values of its input") as caught:
        lower(Outer(Branch()).eval(), (noise(1, 4).float(),))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_error_of_the_model_itself_is_passed_on() -> None:
    with pytest.raises(ExportError, match=r"cannot export Sequential: .*channels"):
        lower(small(), (noise(1, 5, 6, 6).float(),))
    with pytest.raises(ExportError, match=r"each of shape \(9, 6\)\)$"):  # no batch axis was given
        lower(small(), (noise(3, 9, 6).float(),))


def test_unknown_operator_names_layer_and_line() -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        lower(Outer(Sorted()).eval(), (noise(1, 4).float(),))
    assert re.search(
        r"aten\.sort\.default in stage\.1 \(.*test_frontend_export\.py:\d+\)", str(caught.value)
    )


@pytest.mark.parametrize(
    "inputs", [None, (), [3], (torch.tensor(1.0),), (torch.zeros(0, 3),), torch.zeros(1, 3)]
)
def test_inputs_that_are_no_batches(inputs) -> None:
    with pytest.raises(ArgumentError, match="example_inputs"):
        lower(nn.ReLU().eval(), inputs)


def test_training_mode_names_the_module() -> None:
    model = Outer(nn.Dropout())
    with pytest.raises(ArgumentError, match="a model in training mode"):
        lower(model, (noise(1, 4).float(),))
    model.eval().stage[1].train()
    with pytest.raises(ArgumentError, match=r"'stage\.1' in training mode"):
        lower(model, (noise(1, 4).float(),))


def test_weights_without_values_are_named() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    with pytest.raises(ArgumentError, match=r"got 0\.weight on the meta device"):
        lower(model, (IMAGE,))


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="exists"):
        lower(tmp_path / "no.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"not a program")
    with pytest.raises(ArgumentError, match=r"torch\.export\.save"):
        lower(tmp_path / "bad.pt2")
    with pytest.raises(ArgumentError, match="model: got int"):
        lower(3, (noise(1, 4),))  # type: ignore[arg-type]


def test_outputs_without_a_batch_are_an_error() -> None:
    with pytest.raises(UnsupportedOperator, match="batch"):
        lower(Function(lambda x: x.transpose(0, 1)).eval(), (noise(2, 4),))
    with pytest.raises(UnsupportedOperator, match="constant"):
        lower(Function(lambda x: (x, torch.ones(2, 3))).eval(), (noise(2, 4),))
