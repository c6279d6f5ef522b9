"""The package as users get it: a wheel, installed where there is nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pip(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once for the session (3 s), without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds the wheel and what it says that it needs, and nothing else.

    That is linked from the environment of the tests, so that no network is needed: in the versions of the lock file.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (ours,) = distributions(path=[str(site)])
    for needed in closure(ours, ()):
        for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(str(needed.locate_file(top))))
    pip("--python", python, "check")
    return python


def closure(of: Distribution, extras: Iterable[str]) -> list[Distribution]:
    """What a distribution needs with these extras, and what that needs."""
    found: dict[str, Distribution] = {}
    todo = [(of, extras)]
    while todo:
        one, extras = todo.pop()
        for needs in map(Requirement, one.requires or ()):
            applies = not needs.marker or any(needs.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if applies and (name := canonicalize_name(needs.name)) not in found:
                found[name] = distribution(name)
                todo.append((found[name], needs.extras))
    return list(found.values())
