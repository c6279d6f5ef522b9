"""What developers rely on: the list of targets, and the form of the changelog."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
"""The sections of a version, in this order (keepachangelog.com)."""


def test_make_lists_every_target() -> None:
    """`make` and `make help` print each target that is no file, in one line that says what it does."""
    shown = [subprocess.run(["make", "-s", *more], cwd=ROOT, capture_output=True, text=True) for more in ([], ["help"])]
    assert shown[0].stdout == shown[1].stdout
    (targets,) = re.findall(r"^\.PHONY: ([a-z -]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"^make (\S+) +\S+", shown[0].stdout, re.MULTILINE)) == sorted(targets.split())


def test_the_changelog_is_by_version_and_kind() -> None:
    """Every entry stands under a version and a kind; the version of pyproject.toml is the newest or the next one."""
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first, *released = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert first.startswith("Unreleased\n")
    assert f"The next version is {version}." in text or released[0].startswith(f"{version} ")
    for section in (first, *released):
        before, *kinds = re.split(r"^### ", section, flags=re.MULTILINE)
        assert "* " not in before
        names = [kind.partition("\n")[0] for kind in kinds]
        assert names == [kind for kind in KINDS if kind in names]
