"""What all tests share: threads, Hypothesis profiles, and the switch that rewrites golden files."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from kqo.planner import estimate

torch.set_num_threads(1)
estimate.REINFERENCE = float("inf")  # for the small networks of tests torch would be faster
os.environ["KQO_RATES"] = "reference"  # plans are the same on every machine

settings.register_profile("default", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the golden files with what is found; refused in CI",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused in CI: golden files are committed")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
