import json
import pickle
from pathlib import Path

import pytest

from kqo.errors import ArgumentError, KqoError
from kqo.options import Options, parse_memory


def test_defaults_are_exact():
    options = Options()
    assert options.tau == 1.0 and options.tolerance == 1e-5 and options.memory_bytes is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (1, 1),
        ("500MB", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2GiB", 2 << 30),
        ("64k", 64_000),
        ("64KiB", 65_536),
        ("4096", 4096),
        ("10B", 10),
    ],
)
def test_memory_sizes(text, count):
    assert parse_memory(text) == count == Options(memory=text).memory_bytes


@pytest.mark.parametrize(
    "wrong", [0, -5, "", "MB", "5XB", "5iB", "-5MB", 1.5, True, [], "1e3", "0.1"]
)
def test_wrong_memory_sizes(wrong):
    with pytest.raises(ArgumentError, match=r"memory: got .*accepted"):
        Options(memory=wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("tolerance", 0),
        ("tolerance", -1e-5),
        ("tolerance", float("nan")),
        ("tolerance", float("inf")),
        ("tolerance", "1e-5"),
        ("threads", 0),
        ("threads", 1.5),
        ("threads", True),
        ("batch", 0),
        ("batch", "8"),
        ("target", "tpu"),
        ("target", None),
        ("strict", 1),
        ("progress", "yes"),
        ("without", "HoistThis"),
        ("without", (1,)),
        ("without", ("",)),
        ("rules", "directory"),
        ("rules", (None,)),
        ("approximations", 0.8),
        ("approximations", {"sigma": 0.8}),
        ("approximations", ["tau"]),
    ],
)
def test_wrong_values_name_the_argument(name, wrong):
    with pytest.raises(ArgumentError) as error:
        Options(**{name: wrong})
    assert error.value.argument == name
    assert str(error.value).startswith(f"{name}: got ") and "accepted: " in str(error.value)


@pytest.mark.parametrize("wrong", [0, -0.5, 1.01, float("nan"), "0.8", True, None])
def test_wrong_tau(wrong):
    with pytest.raises(ArgumentError) as error:
        Options(approximations={"tau": wrong})
    assert error.value.argument == "tau"


def test_options_do_not_change_after_they_are_made():
    given = {"tau": 0.5}
    options = Options(approximations=given)
    given["tau"] = 0.1
    assert options.tau == 0.5
    with pytest.raises(TypeError):
        options.approximations["tau"] = 0.2
    with pytest.raises(AttributeError):
        options.threads = 3


def test_plain_values_and_back():
    options = Options(
        memory="1GB", threads=2, approximations={"tau": 0.5}, without=["A"], rules=(Path("r"),)
    )
    found = Options.from_dict(json.loads(json.dumps(options.to_dict())))
    assert found == options == pickle.loads(pickle.dumps(options))
    assert hash(found) == hash(options) and found.without == ("A",) and found.rules == ("r",)
    with pytest.raises(KqoError, match="colour"):
        Options.from_dict({"colour": 1})
