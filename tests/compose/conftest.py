"""The compose command and the image of this source, or the reason why they cannot be had."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.compose.stack import ROOT, Stack, run, succeeds

Make = Callable[..., AbstractContextManager[Stack]]


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command for compose on this machine."""
    if succeeds("docker", "compose", "version"):
        return ["docker", "compose"]
    if succeeds("docker-compose", "version"):
        return ["docker-compose"]
    pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")


@pytest.fixture(scope="session")
def empty_env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No .env file of this checkout reaches a test."""
    path = tmp_path_factory.mktemp("compose") / "empty.env"
    path.touch()
    return path


@pytest.fixture(scope="session")
def image(compose: list[str]) -> None:
    """The image of this source, built."""
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers")
    needs(*re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.M), image_of("valkey"))
    began = time.monotonic()
    run("docker", "build", "--network", "host", "-t", "wa-ingest", ".")
    print(f"built in {time.monotonic() - began:.1f} s")


def image_of(service: str, file: str = "docker-compose.yml") -> str:
    """The image of a service, unless a variable names another."""
    text = (ROOT / file).read_text()
    return re.findall(rf"^  {service}:\n(?:    .*\n)*?    image: \${{\w+:-(\S+)}}", text, re.M)[0]


def needs(*images: str) -> None:
    """Skip without these, which the engine might not be able to fetch."""
    for name in images:
        if not succeeds("docker", "image", "inspect", name):
            pytest.skip(f"the image {name} is not on this machine")


@pytest.fixture(scope="session")
def make(compose: list[str], empty_env: Path, image: None) -> Make:
    """A stack of a compose file: all services without a profile and those named, healthy; gone afterwards."""

    @contextmanager
    def made(file: str, *services: str, workers: int = 1, **settings: str) -> Iterator[Stack]:
        needs(*(image_of(name, file) for name in services))
        stack = Stack(compose, empty_env, file, **settings)
        try:
            began = time.monotonic()
            stack.up(workers=workers)
            if services:
                stack.add(*services)
            print(f"healthy after {time.monotonic() - began:.1f} s")
            yield stack
        finally:
            stack.down()

    return made
