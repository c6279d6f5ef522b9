"""Which Pythons: what is declared, and what the image has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def supported() -> list[str]:
    """The versions in the classifiers."""
    words = [one.rpartition(" :: ")[2] for one in PROJECT["project"]["classifiers"] if "Python :: 3." in one]
    assert words
    return words


def test_the_oldest_is_the_same_everywhere() -> None:
    """What pip, ruff, make and the README take for the oldest Python is the first that is declared."""
    oldest = supported()[0]
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()


def test_the_image_has_a_supported_python() -> None:
    """All stages of the image have one Python, and it is one of those that are declared."""
    (version,) = set(re.findall(r"^FROM python:(\d+\.\d+)-", (ROOT / "Dockerfile").read_text(), re.M))
    assert version in supported()
