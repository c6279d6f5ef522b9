"""The compose files without an engine: valid for every use, and nothing in them is forgotten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ingest.settings import Settings, variable
from tests.compose.stack import ROOT, clean_environment, run
from workers.cli.main import main

FILES = {"docker-compose.yml": ("tls", "observe", "postgres"), "docker-compose.ha.yml": ("tls",)}
"""Each file, with its profiles."""

USES = [(file, profiles) for file, all_ in FILES.items() for profiles in ((), *((one,) for one in all_), all_)]


def environment_of(file: str) -> list[str]:
    """The lines of `x-environment`, which receivers and workers share, and of what only receivers get."""
    found = re.findall(r"^x-(?:receiver-)?environment: .*\n((?:  .*\n)+)", (ROOT / file).read_text(), re.M)
    assert len(found) == 2
    return "".join(found).splitlines()


@pytest.mark.parametrize("file", FILES)
def test_every_setting_can_be_given(file: str) -> None:
    """Each setting is named in each file, or a user's value would be ignored without a word."""
    text = (ROOT / file).read_text()
    own_address = {"listen"}  # WA_PUBLISH says where it is reachable
    missing = [variable(name) for name in Settings.model_fields if name not in own_address]
    missing = [name for name in missing if not re.search(rf"^  +{name}(_FILE)?:", text, re.M)]
    assert not missing, f"name it in {file}: {missing}"


def test_both_files_take_the_same() -> None:
    """The two files pass the same settings on, but for where Redis is, what a 200 means and who is in front."""
    one, other = (environment_of(file) for file in FILES)
    differing = {line.split(":")[0].strip() for line in set(one) ^ set(other)}
    names = "REDIS_URL_FILE", "DURABILITY", "ADMIN_HOSTS", "TRUSTED_PROXIES", "SPOOL_DIR"
    assert differing == {f"WA_{name}" for name in names}


@pytest.mark.parametrize(("file", "profiles"), USES)
def test_valid_as_it_is(file: str, profiles: tuple[str, ...], compose: list[str], empty_env: Path) -> None:
    """Each file is valid with any of its profiles, without any variable, and all but Caddy is on loopback only."""
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [*compose, "-f", str(ROOT / file), "--env-file", str(empty_env), *chosen, "config"]
    config = run(*command, env=clean_environment())
    assert f"{ROOT}/examples" in config
    assert re.search(r"^ +WA_HANDLERS: (''|\"\")$", config, re.M)  # unset: what prints, or destinations alone
    for port in (8080, 9100, 9090, 3000):  # as compose 1.29 writes it, or as version 2 does
        published = len(re.findall(rf"^ +- .*:{port}(?:/tcp)?$|target: {port}$", config, re.M))
        assert len(re.findall(rf"127\.0\.0\.1:\d+:{port}|host_ip: 127\.0\.0\.1\n +target: {port}", config)) == published


def test_the_file_of_a_new_bot(compose: list[str], empty_env: Path, tmp_path: Path) -> None:
    """The compose.yaml of `wa-ingest new` is valid; what it passes on are settings, or what the bot reads; secrets of a
    .env reach who needs them."""
    assert CliRunner().invoke(main, ["new", str(tmp_path / "mybot")]).exit_code == 0
    file = tmp_path / "mybot" / "compose.yaml"
    (tmp_path / "env").write_text("WA_APP_SECRET=s3cret\nWHATSAPP_TOKEN=t0ken\n")
    command = [*compose, "-f", str(file), "--env-file"]
    config = yaml.safe_load(run(*command, str(tmp_path / "env"), "config", env=clean_environment()))["services"]
    assert (config["receiver"]["environment"]["WA_APP_SECRET"], config["worker"]["environment"]["WHATSAPP_TOKEN"]) == (
        *("s3cret", "t0ken"),
    )
    run(*command, str(empty_env), "config", env=clean_environment())
    named = {name for service in config.values() for name in service.get("environment", ())}
    assert named - {variable(name) for name in Settings.model_fields} == {"WHATSAPP_TOKEN"}
    assert config["worker"]["environment"]["WA_HANDLERS"] == "bot:handlers"
    assert all(str(port).startswith("127.0.0.1:") or port["host_ip"] == "127.0.0.1" for port in _ports(config))


def _ports(config: dict[str, dict[str, Any]]) -> list[Any]:
    return [port for service in config.values() for port in service.get("ports", ())]


def services(file: str) -> dict[str, dict[str, object]]:
    """Each service as it stands in the file."""
    found: dict[str, dict[str, object]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


@pytest.mark.parametrize("file", FILES)
def test_secrets_are_where_they_are_needed(file: str) -> None:
    """Only receivers get the senders' secrets and the admin token, only servers the passwords of all Redis users."""
    for name, service in services(file).items():
        is_receiver, is_server = name.startswith("receiver"), name.startswith(("valkey", "sentinel"))
        assert ("secrets" in service) is is_receiver, name
        assert ("SECRET" in str(service.get("environment"))) is is_receiver, name
        assert ("passwords:/passwords" in service["volumes"]) is is_server, name  # type: ignore[operator]
        logins = {one for one in service["volumes"] if str(one).endswith("-login:/login:ro")}  # type: ignore[attr-defined]
        assert logins == ({f"{name.rstrip('12')}-login:/login:ro"} if is_receiver or name == "worker" else set()), name


@pytest.mark.parametrize("file", FILES)
def test_what_only_workers_need(file: str) -> None:
    """The archive is the workers', so receivers are not told of it; how many workers there are is kept in a variable,
    because Compose forgets a `--scale` at the next `up`."""
    for name, service in services(file).items():
        assert ("WA_ARCHIVE_DIR" in str(service.get("environment"))) is (name == "worker"), name
        assert service.get("scale") == ("${WA_WORKER_CONTAINERS:-1}" if name == "worker" else None), name


def test_what_is_pulled() -> None:
    """Without a profile nothing is fetched but Valkey, and for high availability its balancer; our image is built."""
    pulled = {
        file: {str(one["image"]) for one in services(file).values() if "profiles" not in one} - {"wa-ingest"}
        for file in FILES
    }
    assert pulled == {
        "docker-compose.yml": {"${WA_VALKEY_IMAGE:-valkey/valkey:8-bookworm}"},
        "docker-compose.ha.yml": {
            "${WA_VALKEY_IMAGE:-valkey/valkey:8-bookworm}",
            "${WA_HAPROXY_IMAGE:-haproxy:2.8-bookworm}",
        },
    }


@pytest.mark.parametrize("file", FILES)
def test_networks_keep_apart(file: str) -> None:
    """What senders reach does not reach Valkey, nor do observers. Valkey has no way out, nor has a database, which
    workers alone reach; workers have one.
    """
    networks = {name: set(service["networks"]) for name, service in services(file).items()}  # type: ignore[call-overload]
    declared = yaml.safe_load((ROOT / file).read_text())["networks"]
    assert all(declared[name]["internal"] is True for name in ("store", "database") if name in declared)
    assert [name for name, its in networks.items() if "database" in its] in ([], ["worker", "postgres"])
    for name, its in networks.items():
        if name.startswith(("valkey", "sentinel")):
            assert its == {"store"}
        elif name == "worker":
            assert its >= {"default", "store"}
            assert "edge" not in its
        elif name == "postgres":
            assert its == {"database"}
        else:
            assert ("store" in its) is name.startswith("receiver"), name


def test_health_is_checked_alike() -> None:
    """What both files run is asked for its health in the same way in both."""
    one, other = ({name.rstrip("123"): it.get("healthcheck") for name, it in services(file).items()} for file in FILES)
    both = one.keys() & other.keys()
    assert both == {"valkey", "receiver", "worker", "caddy"}
    assert {name: one[name] for name in both} == {name: other[name] for name in both}


def test_no_password_is_written_down() -> None:
    """No file of the deployment holds a password that somebody could know, nor a variable a default for one."""
    for file in FILES:
        assert not re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN)\w*:-[^}.]", (ROOT / file).read_text())
    passwords = [word for path in (ROOT / "deploy").rglob("*.acl") for word in re.findall(r">(\S+)", path.read_text())]
    assert passwords
    assert all(word.startswith("change-me-") for word in passwords)
