"""Which Pythons: what is declared, what the image has, and which one `make` uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("given", "made_anew"), [((), False), (("PYTHON=./python3.12",), False), (("PYTHON=./python3.13",), True)]
)
def test_make_honours_python(tmp_path: Path, given: tuple[str, ...], made_anew: bool) -> None:
    """An environment is made anew when PYTHON names another version than the one that made it, and only then."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, version in ((".venv/bin/python", "3.12.1"), ("python3.12", "3.12.1"), ("python3.13", "3.13.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho Python {version}\n")
        (tmp_path / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "PYTHON" and not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", ".venv/bin/python", *given], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("-m venv --clear" in done.stdout) == made_anew
