"""Packages that only some tests need, apart from what the project needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def packages_in(folder: Path, *packages: str) -> str:
    """The folder, with these in it. Skips where they cannot be had."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_CONSTRAINT")}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *packages]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("no package registry answers")
    if done.returncode != 0:
        pytest.skip(f"not to be installed here: {done.stderr[-200:]}")
    return str(folder)
