"""The scripts that start containers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("given", ["", "of-mine"])
@pytest.mark.parametrize("older", [False, True])
def test_grafana_has_no_known_password(tmp_path: Path, given: str, older: bool) -> None:
    """The first start makes a random password, or takes the one that was given, and changes that of an older version;
    later starts change nothing. Only Grafana's user can read it.
    """
    data, said = tmp_path / "data", tmp_path / "said"
    data.mkdir()
    if older:
        (data / "grafana.db").touch()
    (tmp_path / "grafana").write_text(f'#!/bin/sh\necho "$@" >>{said}\n')
    (tmp_path / "grafana").chmod(0o755)
    text = (ROOT / "deploy/grafana/start.sh").read_text()
    text = text.replace("/var/lib/grafana", str(data)).replace("exec /run.sh", "env")
    (tmp_path / "start.sh").write_text(text)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WA_GRAFANA_PASSWORD": given}

    def start() -> str:
        done = subprocess.run(["sh", tmp_path / "start.sh"], env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert "WA_GRAFANA_PASSWORD" not in done.stdout
        assert f"GF_SECURITY_ADMIN_PASSWORD__FILE={data}/admin-password\n" in done.stdout
        assert oct((data / "admin-password").stat().st_mode & 0o777) == "0o600"
        return (data / "admin-password").read_text()

    password = start()
    assert password == given if given else len(password) == 36
    assert start() == password
    assert (said.read_text() if said.exists() else "") == f"cli admin reset-admin-password {password}\n" * older
