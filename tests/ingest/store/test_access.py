"""The users of deploy/redis/users.acl: each can do its work, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.admin.alerts import Alerts
from ingest.commit.committer import make_committer
from ingest.settings import load
from ingest.state import alerts
from ingest.store import connection, keys

ROOT = Path(__file__).parents[3]
ACL = ROOT / "deploy" / "redis" / "users.acl"
USERS = ("receiver", "worker", "operator")

HANDLERS = """
import os
from workers import Handlers, Reject, RetryIn

handlers = Handlers()

@handlers.message(strict_order=True)
def on_message(message):
    with open(os.environ["SEEN"], "a") as out:
        out.write(f"{message.text} {message.attempt}\\n")
    if message.text == "later" and message.attempt == 1:
        raise RetryIn(0.1)
    if message.text == "kills" and not os.path.exists(os.environ["SEEN"] + ".killed"):
        open(os.environ["SEEN"] + ".killed", "w").close()
        os.kill(os.getpid(), 9)
    if message.text == "rejected" and not os.path.exists(os.environ["SEEN"] + ".repaired"):
        raise Reject("no")

@handlers.profile()
def on_profile(profile):
    pass

@handlers.status(rate="50/s")
def on_status(status):
    if status.status == "failed" and status.attempt == 1:
        raise RetryIn(1000)
    if status.status == "failed":
        with open(os.environ["SEEN"], "a") as out:
            out.write("failed 2\\n")
"""


def _message(text: str) -> bytes:
    message = {"from": "15550001", "id": text, "type": "text", "text": {"body": text}}
    contact = {"wa_id": "15550001", "profile": {"name": text}}  # news each time
    return json.dumps({"contacts": [contact], "messages": [message]}).encode()


class System:
    """A Valkey with the users of the file, and one more for the test; processes that use them."""

    def __init__(self, server: Any, port: int, folder: Path) -> None:
        self.admin: Redis = server.client()
        self.port = port
        self.folder = folder
        (folder / "bot.py").write_text(HANDLERS)
        (folder / "seen").touch()
        self.log = folder / "worker.log"

    def url(self, user: str, password: str | None = None) -> str:
        return f"redis://{user}:{password or f'change-me-{user}'}@127.0.0.1:{self.port}/0"

    def environment(self, user: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WA_")}
        return inherited | {
            "WA_REDIS_URL": self.url(user),
            "WA_HANDLERS": "bot:handlers",
            "WA_ARCHIVE_DIR": str(self.folder / "archive"),
            "PYTHONPATH": str(ROOT),
            "SEEN": str(self.folder / "seen"),
        }

    def run(self, user: str, *command: str) -> str:
        """A command as that user; what it prints. It must end well."""
        done = self.ask(user, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, user: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment(user) | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def seen(self) -> list[str]:
        return (self.folder / "seen").read_text().splitlines()

    def long_silent(self) -> None:
        """The workers of this moment have given no sign of life for long."""
        known: Any = self.admin.zrange(keys.ALIVE, 0, -1)
        now: Any = self.admin.time()
        self.admin.zadd(keys.ALIVE, dict.fromkeys(known, 1) | {"bystander": now[0] * 1000})

    def refused(self) -> list[tuple[str, str]]:
        """What ACL LOG holds: user and command or key."""
        log: Any = self.admin.acl_log()
        return [(entry["username"], entry["object"]) for entry in log]


@pytest.fixture
def system(own_valkey: Callable[..., Any], low_port: Callable[[], int], tmp_path: Path) -> System:
    """The users of the file in a Valkey of the test's own."""
    users = tmp_path / "users.acl"
    # The test comes over a unix socket as the default user, which the file turns off.
    users.write_text(ACL.read_text().replace("user default off", "user default on nopass"))
    port = low_port()
    server = own_valkey(port=port, aclfile=str(users), appendonly="yes")
    return System(server, port, tmp_path)


@pytest.fixture
def work(system: System, run_module: Callable[..., Any]) -> Callable[..., Any]:
    """Start a worker, `work("workers.cli", "work")`, as the worker user or with another URL; it writes worker.log."""

    def start(*arguments: str, url: str = "") -> Any:
        env = system.environment("worker") | ({"WA_REDIS_URL": url} if url else {})
        with system.log.open("a") as log:
            return run_module(*arguments, cwd=system.folder, env=env, stdout=log)

    return start


def test_everything_works_with_the_least_rights(
    system: System, start_receiver: Callable[..., Any], work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Receiver, workers and operator do all they can do, and Redis refuses nothing but CONFIG GET to `check`."""
    operator = "operator", "workers.cli"
    for command in (("pause",), ("resume",), ("limit", "statuses", "1000/s")):
        system.run(*operator, *command)
    receiver = start_receiver(system.url("receiver"), WA_DURABILITY="fsync")
    for body in (
        _message("now"),
        _message("later"),
        _message("rejected"),
        b'{"statuses":[{"id":"s","status":"read"}]}',
    ):
        assert receiver.post(body).status == 200
    assert receiver.admin("/readyz").status == 200
    assert b"wa_redis_up 1.0" in receiver.admin("/metrics").body

    worker = work("workers.cli", "work")
    wait_for(lambda: {"now 1", "later 1", "later 2", "rejected 1"} <= set(system.seen()), what="handling")
    wait_for(lambda: json.loads(system.run(*operator, "status", "--json"))["lanes"]["messages"]["dead"] == 1)
    assert "rejected" in system.run(*operator, "dead", "list")
    assert receiver.post(b'{"statuses":[{"id":"f","status":"failed"}]}').status == 200
    wait_for(lambda: json.loads(system.run(*operator, "status", "--json"))["lanes"]["statuses"]["retrying"] == 1)
    assert "Due now: statuses 1" in system.run(*operator, "retry", "--handler", "bot.on_status")
    wait_for(lambda: "failed 2" in system.seen(), what="the try now")
    (system.folder / "seen.repaired").touch()
    assert "1 of 1 dead letter " in system.run(*operator, "dead", "retry", "--yes")
    wait_for(lambda: system.seen().count("rejected 1") == 2, what="the dead letter's second chance")

    assert receiver.post(_message("kills")).status == 200
    wait_for(lambda: "kills 1" in system.seen(), what="the kill")
    system.long_silent()
    wait_for(lambda: system.seen().count("kills 1") == 2, 60, "the batch of the killed worker")
    assert receiver.post(b"unreadable").status == 200
    wait_for(lambda: system.admin.xlen(keys.dead_key("other")) == 1)
    assert "1 of 1" in system.run(*operator, "dead", "drop", "--yes")

    assert " fed back" in system.run(*operator, "replay", "--yes")

    found = {row["name"]: row["result"] for row in json.loads(system.ask(*operator, "check", "--json").stdout)}
    assert found["redis"] == "ok"
    rq = "operator", "rq.cli"
    for command in (("info", "-S", "json"), ("suspend",), ("resume",)):
        assert system.ask(*rq, *command, "--url", system.url("operator")).returncode == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    wait_for(lambda: system.admin.exists(keys.HISTORY), what="a sample")
    assert receiver.stop() == 0
    assert "Traceback" not in system.log.read_text()
    assert set(system.refused()) == {("operator", "config|get")}


def test_a_full_redis_with_the_least_rights(
    system: System, start_receiver: Callable[..., Any], work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Also then lanes are paused and go on, and a worker begins and handles what waits."""
    operator = "operator", "workers.cli"
    assert start_receiver(system.url("receiver")).post(_message("now")).status == 200
    system.run(*operator, "pause")
    system.admin.config_set("maxmemory", 1)
    for command in (("resume",), ("limit", "statuses", "1000/s"), ("pause", "other")):
        system.run(*operator, *command)
    worker = work("workers.engine.worker")
    wait_for(lambda: system.seen() == ["now 1"] and not system.admin.exists(keys.LEDGER), 60)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert system.refused() == []


def _snapshot(receiver: Any, suits: Callable[[Any], bool]) -> Any:
    """What the page shows, once it suits."""
    with urllib.request.urlopen(f"http://127.0.0.1:{receiver.admin_port}/events", timeout=30) as stream:
        for line in stream:
            if line.startswith(b'data: {"receiver"') and suits(now := json.loads(line[6:])):
                return now
    raise AssertionError("the stream has ended")


def _listening(receiver: Any) -> Any:
    """The lines that a listener is sent."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{receiver.admin_port}/actions/tail",
        b"{}",
        {"Content-Type": "application/json", "Authorization": "Bearer correct-horse-battery"},
    )
    return urllib.request.urlopen(request, timeout=30)


def _act(receiver: Any, name: str, **content: str) -> Any:
    """The last line of the answer to an action of the page."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{receiver.admin_port}/actions/{name}",
        json.dumps(content).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer correct-horse-battery"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read().splitlines()[-1])


def test_the_page_with_the_least_rights(
    system: System, start_receiver: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """It shows all but what is in the dead letters; with the rights of page.acl, those too, and acts."""
    receiver = start_receiver(system.url("receiver"), WA_ADMIN_TOKEN="correct-horse-battery")
    assert receiver.post(b"unreadable").status == 200
    assert receiver.post(_message("m")).status == 200
    system.admin.xadd(keys.dead_key("messages"), {"reason": "rejected", "kind": "message", "body": _message("d")})
    system.admin.hset(keys.TAKEN, "messages.1|b", "w#1")
    now = _snapshot(receiver, lambda now: now["lanes"]["messages"]["dead"] == 1)
    assert (now["dead"]["refused"], now["dead"]["groups"]) == (True, [])
    assert [worker["name"] for worker in now["workers"]] == ["w"]
    assert now["findings"][0]["about"] == "workers"
    assert set(system.refused()) == {("receiver", "xrevrange")}

    more = re.findall(r"\([^)]*\)|\S+", (ACL.parent / "page.acl").read_text())
    system.admin.execute_command("ACL SETUSER", "receiver", *more)
    receiver = start_receiver(system.url("receiver"), WA_ADMIN_TOKEN="correct-horse-battery")
    (group,) = _snapshot(receiver, lambda now: bool(now["dead"]["groups"]))["dead"]["groups"]
    shown = {name: group[name] for name in ("lane", "reason", "kind", "first", "last")}
    assert _act(receiver, "pause", lane="other") == _act(receiver, "resume", lane="other") == {}
    assert _act(receiver, "retry", **shown) == {"done": 1, "ended": True}
    assert _act(receiver, "drop", **shown) == {"done": 0, "ended": True}
    assert set(system.refused()) == {("receiver", "xrevrange")}


def test_alerts_with_the_least_rights(
    system: System, monkeypatch: pytest.MonkeyPatch, logged: Any, wait_for: Callable[..., None]
) -> None:
    """A receiver keeps in Redis what it posted; without the rights a line names them."""
    monkeypatch.setattr(alerts, "STEP_SECONDS", 0.02)
    settings = load(redis_url=system.url("receiver"))

    async def until(condition: Callable[[], object]) -> None:
        clients, committer = connection.all_for_tools(system.url("receiver")), make_committer(settings)
        looking = asyncio.create_task(Alerts("http://127.0.0.1:1/", settings, clients, committer).run())
        await asyncio.to_thread(wait_for, condition)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await committer.aclose()
        for client in clients.values():
            client.close()

    asyncio.run(until(lambda: system.admin.exists(keys.ALERTS) and not system.admin.exists(keys.ALERTS_TURN)))
    assert system.refused() == []
    rule = next(rule for rule in system.admin.acl_list() if rule.startswith("user receiver "))  # type: ignore[union-attr]
    parts = [part for part in re.findall(r"\([^)]*\)|\S+", rule)[2:] if "alerts" not in part]
    system.admin.execute_command("ACL SETUSER", "receiver", "reset", *parts)
    asyncio.run(until(lambda: logged))
    assert "lacks a right" in logged[0]["reason"]
    assert "users.acl" in logged[0]["reason"]


def test_listening_with_the_least_rights(
    system: System, start_receiver: Callable[..., Any], work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """A listener is told which right the receiver lacks; with those of page.acl it is told what workers handle."""
    receiver = start_receiver(system.url("receiver"), WA_ADMIN_TOKEN="correct-horse-battery")
    with _listening(receiver) as lines:
        said = json.loads(next(line for line in lines if line.strip()))
        assert "the user of WA_REDIS_URL lacks a right" in said["away"]
    more = re.findall(r"\([^)]*\)|\S+", (ACL.parent / "page.acl").read_text())
    system.admin.execute_command("ACL SETUSER", "receiver", *more)
    system.admin.acl_log_reset()
    with _listening(receiver) as lines:
        wait_for(lambda: system.admin.exists(keys.LISTENERS))
        work("workers.engine.worker")
        assert receiver.post(_message("now")).status == 200
        told = (json.loads(line) for line in lines if line.strip())
        (event,) = next(one for one in told if one.get("events"))["events"]
        assert (event["contact"], event["outcome"]) == ("…0001", "handled")
    # The receiver notices with what it has to tell that the listener is gone.
    wait_for(lambda: receiver.post(_message("more")).status == 200 and not system.admin.exists(keys.LISTENERS))
    assert system.refused() == []


FORBIDDEN = {
    "receiver": [
        "XRANGE rq:wa:dead:messages - +",
        "XDEL rq:wa:dead:messages 1-0",
        "DEL rq:wa:batch:n1",
        "LRANGE rq:wa:batch:n1 0 -1",
        "LINDEX rq:wa:batch:n1 0",
        "LPOP rq:queue:statuses",
        "EXPIRE rq:wa:ledger 0",
        "SET rq:wa:ledger 1",
        "ZREM rq:wa:ledger statuses|n1",
        "HGETALL rq:job:n1",
        "EVAL return 0",
        "HSET rq:wa:steering paused.messages 1",
        "SUBSCRIBE rq:wa:tail:x",
        "ZADD rq:wa:listeners 1 x",
    ],
    "worker": [
        "GET other",
        "SET other 1",
        "PUBLISH rq:pubsub:w x",
        "PUBLISH other x",
        "SUBSCRIBE other",
        "RESTORE rq:x 0 x",
    ],
    "operator": [
        "DEL rq:wa:ledger",
        "LPOP rq:queue:statuses",
        "LTRIM rq:wa:batch:n1 1 0",
        "HDEL rq:wa:taken statuses|n1",
        "GET other",
        "SET rq:wa:turn 1",
        "DEL rq:wa:steering",
    ],
}
FOR_NOBODY = ["FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET save x", "KEYS *", "SCAN 0", "MONITOR", "SHUTDOWN"]
FOR_NOBODY += ["ACL LIST", "DEBUG SLEEP 0", "CLIENT LIST", "CLIENT KILL 1:1", "REPLICAOF NO ONE", "SCRIPT FLUSH"]


@pytest.mark.parametrize("user", USERS)
def test_nothing_else_is_allowed(system: System, user: str) -> None:
    """No user may read or destroy what its part does not need."""
    for command in FORBIDDEN[user] + FOR_NOBODY:
        answer = system.admin.execute_command("ACL DRYRUN", user, *command.split())
        assert b"permission" in answer, command


# What a worker does each minute: longer than the test above takes.
SELDOM = ["XTRIM rq:wa:dead:messages MINID 1", "HSCAN rq:wa:generations 0 MATCH *.left.*", "UNLINK rq:wa:seen:1:0"]
SELDOM += [
    "SET rq:wa:trim w NX EX 50",
    "HDEL rq:wa:generations 1",
    "SUBSCRIBE rq:pubsub:w",
    "ZADD rq:failed:statuses 1 b",
]


def test_what_workers_do_seldom_is_allowed(system: System) -> None:
    """The worker user may do what is not needed in every batch."""
    for command in SELDOM:
        assert system.admin.execute_command("ACL DRYRUN", "worker", *command.split()) == b"OK", command


def test_the_file_holds_no_real_password() -> None:
    """Its passwords are placeholders that say so. Nobody can be the default user, which must have all rights: as
    this user Redis 7.0 reads its append-only file, and leaves out whatever the user may not do.
    """
    text = ACL.read_text()
    assert re.findall(r">(\S+)", text) == [f"change-me-{user}" for user in USERS]
    assert text.startswith("user default off ~* &* +@all\n")


@pytest.mark.parametrize("command", [("status",), ("check", "--json")])
def test_wrong_password_is_one_line(system: System, command: tuple[str, ...]) -> None:
    """A refused password is one line that names the setting and not the password, exit status 1."""
    for url in (system.url("operator", "hunter2"), f"redis://:hunter2@127.0.0.1:{system.port}"):
        system.admin.acl_setuser("default", enabled=True, nopass=False, reset_passwords=True, passwords=["+other"])
        done = system.ask("operator", "workers.cli", *command, WA_REDIS_URL=url)
        said = done.stderr + done.stdout
        assert done.returncode == 1
        assert "Redis refuses the user or the password of WA_REDIS_URL" in said
        assert "hunter2" not in said
        assert "Traceback" not in said
        assert len(done.stderr.splitlines()) == (0 if command[0] == "check" else 1)


def test_a_missing_right_is_one_line(system: System) -> None:
    """Commands and `check` say in one line which right the user lacks."""
    done = system.ask("receiver", "workers.cli", "dead", "list")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the user of WA_REDIS_URL lacks a right: ")
    assert "xrevrange" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    found = json.loads(system.ask("receiver", "workers.cli", "check", "--json").stdout)
    (row,) = [row for row in found if row["name"] == "redis" and row["result"] == "failed"]
    assert row["finding"].startswith("the user of WA_REDIS_URL lacks a right: ")


@pytest.mark.parametrize("spool", [False, True])
def test_a_receiver_without_the_right_to_append(
    system: System, start_receiver: Callable[..., Any], wait_for: Callable[..., None], spool: bool
) -> None:
    """It answers 503, or spools, and its log names the cause; with the right given back it goes on."""
    own = next(rule for rule in system.admin.acl_list() if rule.startswith("user receiver "))  # type: ignore[union-attr]
    system.admin.execute_command("ACL SETUSER", "receiver", "clearselectors", "+evalsha", "~rq:*")
    settings = {"WA_SPOOL_DIR": str(system.folder / "spool")} if spool else {}
    receiver = start_receiver(system.url("receiver"), **settings)
    assert receiver.post(_message("m")).status == (200 if spool else 503)
    wait_for(lambda: "the user of WA_REDIS_URL lacks a right" in receiver.log())
    assert b"lacks a right" in receiver.admin("/readyz").body
    system.admin.execute_command("ACL SETUSER", "receiver", "reset", *re.findall(r"\([^)]*\)|\S+", own)[2:])
    wait_for(lambda: receiver.post(_message("n")).status == 200 and not receiver.admin("/readyz").body.count(b"lacks"))
    wait_for(lambda: system.admin.zcard(keys.LEDGER) == 1)


def test_processes_say_that_the_password_is_wrong(
    system: System, start_receiver: Callable[..., Any], work: Callable[..., Any]
) -> None:
    """Receiver and worker name the setting, never the password, and write no traceback."""
    receiver = start_receiver(system.url("receiver", "hunter2"))
    assert receiver.post(_message("m")).status == 503
    assert work("workers.engine.worker", url=system.url("worker", "hunter2")).wait(30) == 1
    for said in (receiver.log(), system.log.read_text()):
        assert "Redis refuses the user or the password of WA_REDIS_URL" in said
        assert "hunter2" not in said
        assert "Traceback" not in said


def test_a_worker_without_a_right_says_so(system: System, work: Callable[..., Any]) -> None:
    """A worker that may not take work ends with one line that says which right it lacks, not with a traceback."""
    assert work("workers.engine.worker", "--burst", url=system.url("receiver")).wait(30) == 1
    assert "the user of WA_REDIS_URL lacks a right" in system.log.read_text()
    assert "Traceback" not in system.log.read_text()
