"""The zoo: torchvision's names and sizes, random weights that keep signals alive, loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kqo import zoo
from kqo.errors import ArgumentError
from kqo.zoo.weights import smooth_noise

# Parameters, entries of the state dict, and a sample of its names, as torchvision 0.2x has them.
FACTS = {
    "vgg16": (138_357_544, 32, ("features.28.weight", "classifier.6.bias")),
    "resnet18": (
        11_689_512,
        122,
        ("bn1.running_mean", "layer2.0.downsample.1.num_batches_tracked"),
    ),
    "resnet50": (
        25_557_032,
        320,
        ("layer4.2.conv3.weight", "layer1.0.downsample.0.weight", "fc.bias"),
    ),
    "inception_v3": (
        27_161_264,
        580,
        (
            "Conv2d_1a_3x3.conv.weight",
            "Mixed_5b.branch3x3dbl_3.bn.bias",
            "Mixed_6a.branch3x3.conv.weight",
            "Mixed_6b.branch7x7dbl_5.conv.weight",
            "AuxLogits.conv1.bn.running_var",
            "AuxLogits.fc.weight",
            "Mixed_7a.branch7x7x3_4.conv.weight",
            "Mixed_7c.branch3x3dbl_3b.conv.weight",
        ),
    ),
    "densenet121": (
        7_978_856,
        727,
        (
            "features.conv0.weight",
            "features.denseblock3.denselayer24.norm2.running_var",
            "features.transition3.conv.weight",
            "features.norm5.bias",
            "classifier.weight",
        ),
    ),
    "mobilenet_v2": (
        3_504_872,
        314,
        (
            "features.0.1.running_mean",
            "features.1.conv.1.weight",
            "features.2.conv.1.0.weight",
            "features.17.conv.3.bias",
            "features.18.0.weight",
            "classifier.1.weight",
        ),
    ),
}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_names_and_sizes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        model = zoo._MODELS[name](1000, 1.0)
    parameters, entries, sample = FACTS[name]
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) == entries
    assert set(sample) <= set(state)


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if n != "vgg16"])
def test_random_weights_keep_signals_alive(name: str) -> None:
    width = 0.25
    model = zoo.build(name, width=width, num_classes=20)
    assert not any(module.training for module in model.modules())
    deviations: list[float] = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _m, _a, out: deviations.append(float(out.std())))
    images = smooth_noise((2, *zoo.input_shape(name)), torch.Generator().manual_seed(5))
    with torch.no_grad():
        scores = model(images)
    assert min(deviations) > 0.2 and max(deviations) < 5
    assert scores.shape == (2, 20)
    assert (scores[0] - scores[1]).std() > 0.02 * scores.std()


def test_weights_are_seeded() -> None:
    one, same, other = (zoo.build("resnet18", width=0.1, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(one["bn1.running_var"], other["bn1.running_var"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_loading_weights(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    source = zoo.build("mobilenet_v2", width=0.1, num_classes=5, seed=3)
    state = {k: v.clone() for k, v in source.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = zoo.build("mobilenet_v2", width=0.1, num_classes=5, weights=path).state_dict()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_weights_without_the_parts_that_inference_does_not_read(tmp_path: Path) -> None:
    state = zoo.build("inception_v3", width=0.05, num_classes=5).state_dict()
    kept = {
        k: v for k, v in state.items() if "AuxLogits" not in k and "num_batches_tracked" not in k
    }
    torch.save(kept, tmp_path / "w.pt")
    model = zoo.build("inception_v3", width=0.05, num_classes=5, weights=tmp_path / "w.pt")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[k], kept[k]) for k in kept)
    assert int(loaded["Conv2d_1a_3x3.bn.num_batches_tracked"]) == 0
    assert float(loaded["AuxLogits.fc.weight"].abs().sum()) == 0


def test_old_densenet_names(tmp_path: Path) -> None:
    state = zoo.build("densenet121", width=0.1, num_classes=5).state_dict()
    old = {
        k.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): v
        for k, v in state.items()
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pt")
    model = zoo.build("densenet121", width=0.1, num_classes=5, weights=tmp_path / "w.pt")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = dict(zoo.build("resnet18", width=0.1, num_classes=5).state_dict())
    state["extra"] = torch.zeros(1)
    del state["bn1.bias"]
    state["fc.weight"] = state["fc.weight"][:3]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ArgumentError) as caught:
        zoo.build("resnet18", width=0.1, num_classes=5, weights=tmp_path / "w.pt")
    message = str(caught.value)
    assert (
        "missing bn1.bias; unexpected extra; shape fc.weight (3, 51) instead of (5, 51)" in message
    )
    assert "\n" not in message


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    model = zoo.build("resnet18", width=0.1)
    with pytest.raises(ArgumentError, match="exists"):
        zoo.load_weights(model, tmp_path / "none.safetensors")
    for name in ("bad.safetensors", "bad.pt"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ArgumentError, match="state dict saved by torch"):
            zoo.load_weights(model, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ArgumentError, match="from names to tensors"):
        zoo.load_weights(model, tmp_path / "list.pt")
    torch.save(model, tmp_path / "code.pt")  # a pickled module would run code: refused
    with pytest.raises(ArgumentError, match="weights"):
        zoo.load_weights(model, tmp_path / "code.pt")


def test_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="vgg16, resnet18"):
        zoo.build("vgg")
    with pytest.raises(ArgumentError, match="vgg16, resnet18"):
        zoo.input_shape("vgg")
    with pytest.raises(ArgumentError, match="num_classes"):
        zoo.build("resnet18", num_classes=0)
    with pytest.raises(ArgumentError, match="width"):
        zoo.build("resnet18", width=0)
