import os
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kqo.errors import ArgumentError
from kqo.interop.models import resolve_model

SOURCE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return self.conv(x).mean((2, 3))

class Holder:
    made = Small()

def needs(width):
    return Small()

def fails():
    raise RuntimeError("no such luck")

def text():
    return "a model"

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's file in the current directory."""
    name = f"user_model_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_zoo():
    found = resolve_model("mobilenet_v2")
    assert found.name == "mobilenet_v2" and found.shape == (3, 224, 224)
    assert found.module is found.model and not found.module.training


def test_a_factory_of_the_users(package):
    found = resolve_model(f"{package}:Small")
    assert found.shape == (3, 224, 224) and not found.module.training
    assert resolve_model(f"{package}:Small", shape=(3, 9, 9)).shape == (3, 9, 9)
    assert isinstance(resolve_model(f"{package}:Holder.made").module, nn.Module)
    assert os.getcwd() not in sys.path


def test_weights_are_loaded(package, tmp_path):
    values = {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.zeros(4)}
    save_file(values, tmp_path / "w.safetensors")
    found = resolve_model(f"{package}:Small", weights=tmp_path / "w.safetensors")
    assert torch.equal(found.module.conv.weight, values["conv.weight"])
    save_file({"other": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError) as error:
        resolve_model(f"{package}:Small", weights=tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


def test_a_factory_in_a_file(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "neighbour_of_kqo.py").write_text(SOURCE)
    (folder / "own.py").write_text("from neighbour_of_kqo import Small, Holder")
    found = resolve_model(f"{folder}/own.py:Small")
    assert found.name == "Small" and str(folder) not in sys.path
    monkeypatch.chdir(folder)
    assert isinstance(resolve_model("own.py:Holder.made").module, nn.Module)
    sys.modules.pop("neighbour_of_kqo", None)
    (folder / "wrong.py").write_text("def (")
    for text in ("wrong.py:Small", "none.py:Small", "own.py:Large"):
        with pytest.raises(ArgumentError) as error:
            resolve_model(text)
        assert "\n" not in str(error.value) and text in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vgg61", "vgg16"),
        ("no_such_package:model", "no_such_package"),
        ("{package}:Large", "Large"),
        ("{package}:needs", "width"),
        ("{package}:fails", "no such luck"),
        ("{package}:text", "str"),
        ("{package}:number", "no function"),
        (":Small", "module"),
        ("missing.pt2", "no file"),
        ("", "vgg16"),
    ],
)
def test_bad_names_are_errors_of_one_line(package, text, says):
    with pytest.raises(ArgumentError) as error:
        resolve_model(text.format(package=package))
    assert error.value.argument == "model" and says in str(error.value)
    assert "\n" not in str(error.value)


def test_exported_programs(package, tmp_path):
    module = resolve_model(f"{package}:Small").module
    program = torch.export.export(module, (torch.zeros(2, 3, 12, 10),))
    torch.export.save(program, tmp_path / "small.pt2")
    found = resolve_model(str(tmp_path / "small.pt2"))
    assert found.name == "small" and found.shape == (3, 12, 10)
    x = torch.rand(2, 3, 12, 10)
    assert torch.equal(found.module(x), module(x))
    with pytest.raises(ArgumentError, match="weights"):
        resolve_model(str(tmp_path / "small.pt2"), weights="w.safetensors")
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(ArgumentError, match="cannot be read"):
        resolve_model(str(tmp_path / "bad.pt2"))
