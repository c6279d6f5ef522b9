"""The image of this source: what it holds, and what it says of itself."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.compose.stack import ROOT, run

LARGER_AT_MOST = 22_000_000
"""Bytes that it may have more than its base, which has about 125 million; it was 16 million, and 82 before."""

PACKAGES_AT_MOST = 70_000_000
"""Bytes of the packages and of ours, on whatever base; they were 63 million."""

PACKAGED = "hello"
"""A small package of Debian, for what the Dockerfile's head installs."""

pytestmark = [pytest.mark.usefixtures("image"), pytest.mark.timeout(1200)]


def inspected(name: str) -> dict[str, Any]:
    (found,) = json.loads(run("docker", "image", "inspect", name))
    return dict(found)


def base() -> str:
    (name,) = set(re.findall(r"^FROM (python:\S+)", (ROOT / "Dockerfile").read_text(), re.M))
    return str(name)


def examples() -> list[str]:
    """What the Dockerfile's head shows, block by block."""
    head = (ROOT / "Dockerfile").read_text().partition("\n\n")[0]
    blocks = re.findall(r"(?:^#     .*\n?)+", head, re.M)
    return [re.sub(r"^#     ", "", block, flags=re.M) for block in blocks]


def built(tmp_path: Path, dockerfile: str) -> str:
    """The id of an image with those lines, and a bot."""
    (tmp_path / "bot.py").touch()
    (tmp_path / "Dockerfile").write_text(dockerfile)
    return run("docker", "build", "--quiet", "--network", "host", str(tmp_path)).strip()


def in_image(name: str, *command: str) -> str:
    entry, *arguments = command
    return run("docker", "run", "--rm", "--entrypoint", entry, name, *arguments)


def test_it_is_small() -> None:
    """It is little larger than its base, of which it leaves out what never runs, and has nothing for compilers."""
    assert inspected("wa-ingest")["Size"] - inspected(base())["Size"] < LARGER_AT_MOST
    assert int(in_image("wa-ingest", "du", "-sb", "/venv").split()[0]) < PACKAGES_AT_MOST


def test_what_it_imports_has_byte_code() -> None:
    """Nothing is compiled at a start, which took three times as long: the Dockerfile names all that ours import."""
    without = {"__init__", "__main__", "embedded", "pywa"}  # commands, and what needs packages that the image has not
    ours = [path.relative_to(ROOT) for room in ("ingest", "workers") for path in (ROOT / room).rglob("*.py")]
    names = [".".join(path.with_suffix("").parts) for path in ours if path.stem not in without]
    code = """
import os, sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
kept = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
print([name for name, file in kept.items() if file and not os.path.exists(file)])
"""
    assert in_image("wa-ingest", "python", "-c", code, "asyncpg", "urllib.request", *names) == "[]\n"


def test_labels() -> None:
    """`make image` gives it labels with version, commit and licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commit = run("git", "rev-parse", "HEAD").strip()
    # Under another name, because stacks of other tests run the image.
    rule = run("make", "--dry-run", "image").replace(" -t wa-ingest ", " --network host -t wa-ingest-labels ", 1)
    run("sh", "-c", re.sub(r" -t wa-ingest:\S+", "", rule))
    labels = inspected("wa-ingest-labels")["Config"]["Labels"]
    run("docker", "rmi", "wa-ingest-labels")
    said = {name.rpartition(".")[2]: value for name, value in labels.items() if "opencontainers" in name}
    assert (said["version"], said["licenses"], said["revision"]) == (project["version"], project["license"], commit)


@pytest.mark.parametrize("pip", [("pip",), ("python", "-m", "pip")])
def test_more_packages(pip: tuple[str, ...]) -> None:
    """pip, which users call to add packages of their own, works in the environment where ours are."""
    assert "\nLocation: /venv/lib/" in in_image("wa-ingest", *pip, "show", "--files", "aiohttp")


def test_an_image_of_ones_own(tmp_path: Path) -> None:
    """The first example of the Dockerfile's head builds, and the bot imports the package that it adds."""
    (example, _) = examples()
    mine = built(tmp_path, example.replace("some-package", "six"))
    try:
        assert in_image(mine, "python", "-c", "import bot, six, workers; print(six.__file__)").startswith("/venv/lib/")
        assert inspected(mine)["Config"]["User"] == "wa-ingest"
    finally:
        run("docker", "rmi", mine)


def test_an_image_with_packages_of_debian(tmp_path: Path) -> None:
    """The second example of the head begins with the base, adds packages of Debian, and is otherwise like the first."""
    first, second = examples()
    rest = first.partition("USER root\n")[2]
    mine = built(tmp_path, (second + "\n" + rest).replace("ffmpeg", PACKAGED).replace("some-package", "six"))
    try:
        assert in_image(mine, "sh", "-c", f"{PACKAGED} && python -c 'import bot, six, workers'")
        assert in_image(mine, "stat", "-c", "%u %a", "/spool", "/archive").split() == ["10001", "700"] * 2
        ours = inspected("wa-ingest")["Config"]
        assert all(inspected(mine)["Config"][name] == ours[name] for name in ("Entrypoint", "User", "WorkingDir"))
    finally:
        run("docker", "rmi", mine)
