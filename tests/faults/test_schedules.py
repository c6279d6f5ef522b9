"""The machine of tests/workers/test_model.py with a larger budget, and other schedules each time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from redis import Redis

from tests.conftest import LONG

MODEL = Path(__file__).parents[1] / "workers" / "engine" / "test_model.py"


@pytest.fixture
def model() -> ModuleType:
    """The module of the machine, by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location("schedules_model", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not LONG, reason="takes a quarter of an hour; set LONG_TESTS=1")
@pytest.mark.timeout(3600)
def test_long_schedules(model: ModuleType, redis: Redis) -> None:
    """Nothing is lost or done twice in thousands of long runs."""
    model.explore(redis, 2000, 100, print_blob=True)
