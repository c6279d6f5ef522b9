"""The image of this source: what it holds, and what it says of itself."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest

from tests.compose.stack import ROOT, run

OURS_AT_MOST = 100_000_000
"""Bytes that we add to the base image; it was 82 million (before stripping and without sharing pip, 148)."""

pytestmark = [pytest.mark.usefixtures("image"), pytest.mark.timeout(1200)]


def inspected(name: str) -> dict[str, Any]:
    (found,) = json.loads(run("docker", "image", "inspect", name))
    return dict(found)


def test_it_is_small() -> None:
    """What we add to the base stays small: nobody pulls debug information, a compiler or a second pip."""
    (base,) = set(re.findall(r"^FROM (python:\S+)", (ROOT / "Dockerfile").read_text(), re.M))
    assert inspected("wa-ingest")["Size"] - inspected(base)["Size"] < OURS_AT_MOST


def test_labels() -> None:
    """`make image` gives it labels with version, commit and licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run("make", "image")
    labels = inspected("wa-ingest")["Config"]["Labels"]
    said = {name.rpartition(".")[2]: value for name, value in labels.items() if "opencontainers" in name}
    commit = run("git", "rev-parse", "HEAD").strip()
    assert (said["version"], said["licenses"], said["revision"]) == (project["version"], project["license"], commit)


@pytest.mark.parametrize("pip", [("pip",), ("python", "-m", "pip")])
def test_more_packages(pip: tuple[str, ...]) -> None:
    """pip, which users call to add packages of their own, works in the environment where ours are."""
    first, *rest = pip
    shown = run("docker", "run", "--rm", "--entrypoint", first, "wa-ingest", *rest, "show", "--files", "aiohttp")
    assert "\nLocation: /venv/lib/" in shown
