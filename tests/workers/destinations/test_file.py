"""The file that WA_DESTINATIONS names."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.destinations.file import read
from workers.raised import HandlersError

MINIMAL = '[[destination]]\nname = "crm"\nurl = "http://localhost:3000/webhook"\n'


def test_minimal(tmp_path: Path) -> None:
    """Name and address are enough: every event is posted, ten seconds are waited for an answer."""
    file = tmp_path / "destinations.toml"
    file.write_text(MINIMAL)
    (found,) = read(file)
    assert (found.name, found.url, found.timeout, found.concurrency) == ("crm", "http://localhost:3000/webhook", 10, 20)
    assert set(found.wants) == {"message", "status", "error", "change", "call", "handover", "preference"}
    assert found.key is None


@pytest.mark.parametrize(
    ("more", "wants"),
    [
        ('kinds = ["message", "status"]', {"message": frozenset(), "status": frozenset()}),
        ('kinds = "call"', {"call": frozenset()}),
        ('statuses = ["failed"]', {"status": frozenset({"failed"})}),
        ('types = "text"\nfields = ["account_update"]', {"message": {"text"}, "change": {"account_update"}}),
        ('types = "text"\nkinds = ["message", "error"]', {"message": {"text"}, "error": frozenset()}),
    ],
)
def test_what_it_wants(tmp_path: Path, more: str, wants: dict[str, set[str]]) -> None:
    """`kinds` says which events; types, statuses and fields narrow their own kind, and alone they name it."""
    file = tmp_path / "destinations.toml"
    file.write_text(MINIMAL + more)
    assert read(file)[0].wants == wants


def test_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers may name variables, durations have units, rates are as in decorators, a secret may lie in a file."""
    monkeypatch.setenv("CRM_TOKEN", "hunter2")
    (tmp_path / "secret").write_text("s3cret\n")
    file = tmp_path / "destinations.toml"
    file.write_text(
        MINIMAL
        + 'headers = {Authorization = "Bearer ${CRM_TOKEN}"}\ntimeout = "2m"\nrate = "30/m"\n'
        + f'secret_file = "{tmp_path}/secret"\n'
    )
    (found,) = read(file)
    assert found.headers == {"Authorization": "Bearer hunter2"}
    assert (found.timeout, found.rate, found.key) == (120, 0.5, b"s3cret")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no destination: write [[destination]], then name and url"),
        ("[destination]\nname = 'a'", "has no destination"),
        ("[[destination]\n", "line 1"),
        ('[[destinations]]\nname = "a"', "line 1: 'destinations' is not known; write [[destination]]"),
        (MINIMAL + 'kind = "message"', "line 4: kind is not known; did you mean kinds?"),
        (MINIMAL + "xyz = 1", "line 4: xyz is not known; there are name, url, secret, secret_file, kinds"),
        (MINIMAL + 'secret = "${NOT_SET_AT_ALL}"', "line 4: secret: the environment has no NOT_SET_AT_ALL"),
        ('[[destination]]\nname = "a"', "line 1: url is missing"),
        (MINIMAL + '\n[[destination]]\nname = "b"\nurl = "ftp://x"', "line 7: url: give an address such as https://"),
        ('[[destination]]\nname = "b"\nurl = "http://u:p@x/"', "line 3: url: give a password as headers"),
        (MINIMAL + 'rate = "fast"', "line 4: rate: 'fast' is no rate"),
        (MINIMAL + 'kinds = ["messages"]', "line 4: kinds"),
        (MINIMAL + "linger = 1", "line 1: linger needs bulk"),
        (MINIMAL + 'types = "text"\nkinds = "status"', 'line 1: types needs "message" among kinds'),
        (MINIMAL + 'secret = "a"\nsecret_file = "b"', "line 1: give secret or secret_file, not both"),
        (MINIMAL + 'secret_file = "/nowhere"', "line 1: No such file or directory: /nowhere"),
        (MINIMAL + 'headers = {A = "${NOT_SET_AT_ALL}"}', "line 4: headers: the environment has no NOT_SET_AT_ALL"),
        (MINIMAL + MINIMAL, "2 destinations are called 'crm'"),
        (MINIMAL.replace('"crm"', '"My CRM"'), "line 2: name"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, says: str) -> None:
    """A mistake is one line with the file, the line in it, and the remedy."""
    file = tmp_path / "destinations.toml"
    file.write_text(text)
    with pytest.raises(HandlersError) as raised:
        read(file)
    line = str(raised.value)
    assert line.startswith(f"WA_DESTINATIONS: {file}") or f"{file}" in line
    assert says in line
    assert "\n" not in line


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(HandlersError, match=r"cannot read .*nowhere\.toml: No such file or directory"):
        read(tmp_path / "nowhere.toml")
