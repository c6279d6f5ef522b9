"""The packages of a release are complete and well described; `make release` refuses what is not ready."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.test_lock import IMAGE, pins
from tests.wheel.conftest import ROOT, pip

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, as `make release` builds it."""
    folder = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def test_the_sdist_is_enough(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """From the sdist comes the wheel that comes from the checkout; its tests, pages and licence are in it, too."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, sdist)
    (again,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "Makefile", "docs/handlers.md", "docs/site/conf.py", "tests/conftest.py"} <= held
    assert not [name for name in held if name.startswith((".venv", "site/", "dist/", "data/"))]


def test_twine_accepts_them(sdist: Path, wheel: Path) -> None:
    """Their metadata is valid, and a registry can show the README."""
    pytest.importorskip("twine", reason="twine is not installed (the extra `release`)")
    done = run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    assert done.returncode == 0, done.stdout


def test_one_version(installed: Path) -> None:
    """What the command says is what pyproject.toml says, and no module of the package has a version of its own."""
    done = run(installed.with_name("wa-ingest"), "--version")
    assert done.stdout == f"wa-ingest, version {VERSION}\n"
    sources = [path for name in ("ingest", "workers") for path in (ROOT / name).rglob("*.py")]
    own = re.compile(rf"^__version__|[\"']{re.escape(VERSION)}", re.MULTILINE)
    assert [path for path in sources if own.search(path.read_text())] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_sbom(tmp_path: Path) -> None:
    """`make sbom` lists each package of the image with its version and the hashes of its files, and names ours."""
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed (the extra `release`)")
    rule = run("make", "--dry-run", "--always-make", "sbom").stdout.replace("\\\n", " ")
    ((_, arguments),) = re.findall(r"(\S+) -W ignore -m cyclonedx_py (.*) --output-file \S+", rule)
    written = tmp_path / "sbom.json"
    command = ("-W", "ignore", "-m", "cyclonedx_py", *arguments.split(), "--output-file", written)
    assert run(sys.executable, *command).returncode == 0
    found = json.loads(written.read_text())
    assert (found["metadata"]["component"]["name"], found["metadata"]["component"]["version"]) == ("wa-ingest", VERSION)
    assert {one["name"].lower(): one["version"] for one in found["components"]} == pins(IMAGE)
    assert all(one["externalReferences"][0]["hashes"] for one in found["components"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that is ready for release, as far as `make release` can see before it runs the tests."""
    for name in (".ci/release", "pyproject.toml", "CHANGELOG.md", "deploy/helm/Chart.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    log = tmp_path / "CHANGELOG.md"
    log.write_text(log.read_text().replace("## Unreleased", f"## {VERSION} (2030-01-01)"))
    (tmp_path / "Makefile").write_text("test:\n\t@echo the tests run; false\n")
    for command in (("init",), ("add", "."), ("commit", "--message", "x")):
        done = run("git", "-c", "user.name=x", "-c", "user.email=x@localhost", *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_first_the_tests(checkout: Path) -> None:
    """Nothing is built when the tests fail."""
    done = run(checkout / ".ci/release", cwd=checkout)
    assert done.returncode != 0
    assert "the tests run" in done.stdout
    assert not (checkout / "dist").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("touch new", "not clean"),
        (f"git tag v{VERSION}", f"v{VERSION} is released already"),
        ("sed -i 's/^## [0-9].*/## Unreleased/' CHANGELOG.md; git commit -qam x", f"no section {VERSION}"),
        ("sed -i s/^appVersion.*/appVersion:9/ deploy/helm/Chart.yaml; git commit -qam x", "Chart.yaml has another"),
    ],
)
def test_not_ready(command: str, said: str, checkout: Path) -> None:
    """What is not ready is named in one line, before anything else is done."""
    who = "export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@localhost GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@localhost"
    assert run("sh", "-c", f"{who}; {command}", cwd=checkout).returncode == 0
    done = run(checkout / ".ci/release", cwd=checkout)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert said in line
