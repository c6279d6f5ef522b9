"""The compose files without an engine: valid for every use, and nothing in them is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingest.settings import Settings, variable
from tests.compose.stack import ROOT, clean_environment, run

FILES = {"docker-compose.yml": ("tls", "observe"), "docker-compose.ha.yml": ("tls",)}
"""Each file, with its profiles."""

USES = [(file, profiles) for file, all_ in FILES.items() for profiles in ((), *((one,) for one in all_), all_)]


def environment_of(file: str) -> list[str]:
    """The lines of `x-environment`, which receivers and workers share."""
    found = re.search(r"^x-environment: .*\n((?:  .*\n)+)", (ROOT / file).read_text(), re.M)
    assert found
    return found[1].splitlines()


@pytest.mark.parametrize("file", FILES)
def test_every_setting_can_be_given(file: str) -> None:
    """Each setting is named in each file, or a user's value would be ignored without a word."""
    text = (ROOT / file).read_text()
    own_address = {"listen"}  # WA_PUBLISH says where it is reachable
    missing = [variable(name) for name in Settings.model_fields if name not in own_address]
    missing = [name for name in missing if not re.search(rf"^  +{name}:", text, re.M)]
    assert not missing, f"name it in {file} under x-environment: {missing}"


def test_both_files_take_the_same() -> None:
    """The two files pass the same settings on, but for where Redis is, what a 200 means and who serves."""
    one, other = (environment_of(file) for file in FILES)
    assert {line.split(":")[0].strip() for line in set(one) ^ set(other)} == {
        "WA_REDIS_URL",
        "WA_DURABILITY",
        "WA_ADMIN_HOSTS",
    }


@pytest.mark.parametrize(("file", "profiles"), USES)
def test_valid_as_it_is(file: str, profiles: tuple[str, ...], compose: list[str], empty_env: Path) -> None:
    """Each file is valid with any of its profiles, without any variable, and what has no guard is on loopback only."""
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [*compose, "-f", str(ROOT / file), "--env-file", str(empty_env), *chosen, "config"]
    config = run(*command, env=clean_environment())
    assert f"{ROOT}/examples" in config
    assert "printing:handlers" in config
    for port in (9100, 9090, 3000):  # as compose 1.29 writes it, or as version 2 does
        published = len(re.findall(rf"^ +- .*:{port}(?:/tcp)?$|target: {port}$", config, re.M))
        assert len(re.findall(rf"127\.0\.0\.1:\d+:{port}|host_ip: 127\.0\.0\.1\n +target: {port}", config)) == published
