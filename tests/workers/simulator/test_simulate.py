"""`wa-ingest simulate` as a command: what it prints, how it ends, and what it says of the real pipeline."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner
from redis import Redis
from rich.console import Console

from ingest.store import keys
from tests.ingest.conftest import start_receiver  # noqa: F401
from tests.old_ca import OldCA
from workers.cli.main import main
from workers.events.parsing import parse
from workers.simulator import bodies, report, verifying
from workers.simulator.accounting import Account
from workers.simulator.counters import Tally

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "workers.cli", "simulate"]
QUICK = ("--speed-up", "1000")

JSON_KEYS = [
    "run",
    "form",
    "sent",
    "first_try",
    "acknowledged",
    "retried",
    "given_up",
    "unacknowledged",
    "duplicates",
    "posts",
    "answers",
    "seconds",
    "rate",
    "latency_seconds",
    "over_1s",
    "rule",
    "stopped",
    "verify",
]


class Server:
    """A receiver in a thread: `statuses` are its first answers, `then` all others."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.statuses: list[int] = []
        self.then = 200
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(outer.statuses.pop(0) if outer.statuses else outer.then)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            request_queue_size = 128  # 5 by default: who comes then waits a second
            daemon_threads = True

        self._http = Http(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[assignment] # a client that was ended
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._http.server_port}/webhook"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a receiver; it ends with the test."""
    started: list[Server] = []

    def start(context: ssl.SSLContext | None = None) -> Server:
        started.append(Server(context))
        return started[-1]

    yield start
    for server in started:
        server.close()


def simulate(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60
    )


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    """The error, which must be the only line on standard error, with exit status 1."""
    assert run.returncode == 1, run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_json(serve: Callable[..., Server]) -> None:
    """`--json` prints an object with the names that the help page lists, in the same order, and nothing else."""
    server = serve()
    server.statuses = [503]
    run = simulate("--to", server.url, "--count", "20", "--duplicates", "100%", "--json", *QUICK)
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert list(found) == JSON_KEYS
    page = " ".join(CliRunner().invoke(main, ["simulate", "--help"]).stdout.split())
    listed = page[page.index("With --json") :]
    assert all(key in listed for key in JSON_KEYS)
    assert [found[key] for key in JSON_KEYS[1:10]] == ["cloud", 20, 19, 20, 1, 0, 0, 20, 41]
    assert found["answers"] == {"200": 40, "503": 1}
    assert (found["rule"], found["over_1s"], found["stopped"], found["verify"]) == ("ok", 0, False, None)
    assert 0 < found["latency_seconds"]["p50"] <= found["latency_seconds"]["max"]
    assert len(server.bodies) == 41


def test_table(serve: Callable[..., Server]) -> None:
    """Without it a table is printed, and no progress where there is no terminal."""
    run = simulate("--to", serve().url, "--form", "onprem", "--count", "50", "--connections", "12")
    assert (run.returncode, run.stderr) == (0, "")
    rows = {" ".join(words[:-1]): words[-1] for line in run.stdout.splitlines() if (words := line.split())}
    assert rows["sent"] == rows["200 at first try"] == rows["requests: 200"] == "50"
    assert rows["given up"] == "0"
    assert rows["median ≤ 250 ms, < 1 % over 1 s"] == "ok"


def rows_of(tally: Tally, findings: verifying.Findings | Account | None = None) -> list[list[str]]:
    """What a person is shown, cell by cell."""
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(report.table(tally, findings))
    return [re.split(" {2,}", row.strip()) for row in drawn.get().splitlines()]


def test_few_are_told_in_a_few_lines(serve: Callable[..., Server]) -> None:
    """Of one notification: when, that it was posted, what was answered and how soon."""
    run = simulate("--to", serve().url, "--count", "1")
    assert (run.returncode, run.stderr) == (0, "")
    lines = [re.split(" {2,}", line.strip()) for line in run.stdout.splitlines()]
    assert [name for name, _ in lines] == ["started", "sent", "requests: 200", "slowest answer"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", lines[0][1])
    assert [value for _, value in lines[1:3]] == ["1", "1"]
    assert re.fullmatch(r"[\d,]+\.\d ms", lines[3][1])


def test_what_went_wrong_with_few_is_told() -> None:
    """What was verified is told, and whatever is not as it should be; what has not happened is not."""
    tally = Tally(sent=2, acknowledged=1, given_up=1, answers=Counter({"200": 1, "timeout": 3}))
    assert rows_of(tally, verifying.Findings(1, 0, 1, 0, 0))[1:] == [
        ["sent", "2"],
        ["requests: 200", "1"],
        ["requests: timeout", "3"],
        ["given up", "1"],
        ["messages and statuses to be handled", "1"],
        ["handled", "0"],
        ["missing", "1"],
    ]
    stopped = rows_of(Tally(sent=2, acknowledged=1, duplicates=1, stopped=True))
    assert stopped[2:] == [["not acknowledged yet", "1"], ["duplicates", "1"]]


def test_progress_on_a_terminal(serve: Callable[..., Server]) -> None:
    """On a terminal it shows meanwhile what was sent, how fast, and what waits for a retry."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--to", serve().url, "--seconds", "1", "--rate", "50"],
        stderr=slave,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 65536):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(master)
    assert process.returncode == 0
    assert b"waiting for retry: 0" in shown
    assert b" sent, " in shown


def test_given_up_is_a_failure(serve: Callable[..., Server]) -> None:
    """What is never acknowledged is given up, with exit status 1 and the most frequent reason; the table is printed."""
    server = serve()
    server.then = 503
    run = simulate("--to", server.url, "--count", "11", "--speed-up", "2000000")
    assert one_line(run) == "Error: 11 of 11 were given up; mostly: 503"
    assert "given up" in run.stdout
    assert run.stdout.splitlines()[-1].split()[-3:] == ["1", "s", "-"]


def test_interrupt(serve: Callable[..., Server], run_module: Callable[..., Any], wait_for: Callable[..., None]) -> None:
    """Ctrl-C ends it with the table, and it says how much was not acknowledged."""
    server = serve()
    server.then = 503
    process = run_module("workers.cli", "simulate", "--to", server.url, "--count", "10", stderr=subprocess.PIPE)
    wait_for(lambda: len(server.bodies) >= 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "Error: stopped; 10 of 10 were not acknowledged\n"
    assert "not acknowledged yet" in out


def test_nothing_there(free_port: Callable[[], int]) -> None:
    """An address at which nothing answers ends it with one line that names the reason, without the password."""
    run = simulate("--to", f"http://ada:s3cret@127.0.0.1:{free_port()}/", "--speed-up", "100")
    line = one_line(run)
    assert "check host and port" in line
    assert "s3cret" not in line
    assert run.stdout == ""


def test_a_secret_is_missing(serve: Callable[..., Server]) -> None:
    """A receiver that wants signatures ends it soon with the option that is missing, and no table."""
    server = serve()
    server.then = 401
    run = simulate("--to", server.url)
    assert one_line(run).startswith(f"Error: {server.url} answers 401: add --sign, which takes the secret from WA_APP_")
    assert run.stdout == ""
    assert len(server.bodies) < 100


def test_tls(serve: Callable[..., Server], tmp_path: Path) -> None:
    """https works with the receiver's CA or unchecked, shows a client certificate, and else says what is wrong."""
    ca, client_ca = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    client_ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = client_ca.issue_cert("sender@example.com")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "client.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    url = serve(context).url
    call = ("--to", url, "--count", "20", "--speed-up", "500")
    both = ("--client-cert", f"{tmp_path}/client.crt", "--client-key", f"{tmp_path}/client.key")
    assert simulate(*call, "--ca-file", f"{tmp_path}/ca.pem", *both).returncode == 0
    assert simulate(*call, "--insecure", "--client-cert", f"{tmp_path}/client.pem").returncode == 0
    for arguments, said in (
        (both, "check the certificate"),
        (("--insecure",), "--client-cert"),
        (("--ca-file", f"{tmp_path}/client.key"), "Error: --ca-file: "),
        (("--client-cert", f"{tmp_path}/ca.pem"), "Error: --client-cert: "),
    ):
        result = CliRunner().invoke(main, ["simulate", *call, *arguments])
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert said in line


def test_a_receiver_with_a_certificate_of_an_old_ca(serve: Callable[..., Server], tmp_path: Path) -> None:
    """--ca-file takes a private CA that knows only the old forms of certificates, on every Python."""
    ca = OldCA(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.issue("127.0.0.1"))
    run = simulate("--to", serve(context).url, "--count", "20", "--speed-up", "500", "--ca-file", str(ca.file))
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--to", "nowhere"),
        ("--to", "ftp://host/"),
        ("--to", "http://[::1/"),
        ("--mix", "messages"),
        ("--mix", "messages=0"),
        ("--mix", "messages=nan"),
        ("--mix", "letters=1"),
        ("--duplicates", "2"),
        ("--duplicates", "x%"),
        ("--form", "onprem", "--connections", "7"),
        ("--connections", "1001"),
        ("--rate", "0"),
        ("--seconds", "nan"),
        ("--batch", "1001"),
        ("--ca-file", "/nowhere"),
        ("--insecure",),
        ("--verify", "--count", "10000000", "--batch", "2"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """Wrong options end it with status 2 before anything is posted."""
    result = CliRunner().invoke(main, ["simulate", "--to", "http://127.0.0.1:9/", *arguments])
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr


def test_missing_settings() -> None:
    """`--sign` without a secret and `--verify` without Redis name the variable to set."""
    for option, env, named in (
        ("--sign", {}, "WA_APP_SECRET"),
        ("--verify", {}, "WA_REDIS_URL"),
        ("--verify", {"WA_REDIS_URL": "redis://127.0.0.1:9/0"}, "Redis is not reachable"),
    ):
        result = CliRunner().invoke(main, ["simulate", "--to", "http://127.0.0.1:9/", option], env=env)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert named in line


# The real pipeline

WRONG_HANDLERS = """
from workers import Handlers
from workers.simulator import verifying

handlers = Handlers()

@handlers.message()
def wrong(event):
    times = (0, 2, 1, 1)[int(event.id[-1]) % 4]
    for _ in range(times):
        verifying.on_message(event)
"""


@pytest.fixture
def pipeline(
    start_receiver: Callable[..., Any],  # noqa: F811
    run_module: Callable[..., Any],
    redis_url: str,
    tmp_path: Path,
) -> Callable[..., str]:
    """Start a receiver that demands signatures and workers with these handlers: the URL to post to."""

    def start(workers: int = 1, handlers: str = "workers.simulator.verifying:handlers") -> str:
        for n in range(workers):
            with (tmp_path / f"log{n}").open("w") as log:
                env = os.environ | {"WA_HANDLERS": handlers}
                run_module("workers.engine.worker", cwd=tmp_path, stdout=log, env=env)
        receiver = start_receiver(redis_url, WA_APP_SECRET="s3cret,older")
        return f"http://127.0.0.1:{receiver.port}/webhook"

    return start


def verify(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return simulate("--to", url, "--sign", "--verify", "--json", *QUICK, *arguments, WA_APP_SECRET="s3cret,older")


def test_verified(pipeline: Callable[..., str], commit: Any, message: Any, redis: Redis) -> None:
    """The pipeline handles everything once and in order, duplicates or not; other notifications are left alone, and
    what is written down for a sender that is gone expires within an hour."""
    commit(message("m1"), message("sim.1"), message("sim.0123abcd.7.1", sender="15550000007"))
    url = pipeline(workers=2)
    few = ("--contacts", "5", "--mix", "messages=1,statuses=1,errors=0.1")
    for options in (("--form", "cloud"), ("--form", "onprem", "--batch", "20")):
        run = verify(url, "--count", "300", "--duplicates", "20%", *few, *options)
        assert (run.returncode, run.stderr) == (0, ""), run.stdout
        found = json.loads(run.stdout)
        assert found["duplicates"] > 20
        checked = found["verify"]
        assert checked["expected"] == checked["handled"] > 200
        assert (checked["missing"], checked["repeated"], checked["out_of_order"]) == (0, 0, 0)
    (left,) = redis.scan_iter(f"{keys.WA}simulated:*")
    assert left.decode() == f"{keys.WA}simulated:0123abcd"
    assert 3000 < int(redis.ttl(left)) <= 3600  # type: ignore[arg-type]


def test_faults_are_found(pipeline: Callable[..., str], tmp_path: Path) -> None:
    """Events that handlers lose, or handle twice, are noticed: counts, one line, exit status 1."""
    (tmp_path / "wrong.py").write_text(WRONG_HANDLERS)
    url = pipeline(handlers="wrong:handlers")
    run = verify(url, "--count", "100", "--mix", "messages=1", "--contacts", "1", "--verify-seconds", "1")
    line = one_line(run)
    checked = json.loads(run.stdout)["verify"]
    lost, twice = (sum(n % 10 % 4 == rest for n in range(100)) for rest in (0, 1))
    found = {"expected": 100, "handled": 100 - lost, "missing": lost, "repeated": twice, "out_of_order": 0}
    assert checked == found | {"set_back": 0}
    assert line.endswith(f" {lost} are missing, {twice} were handled more than once")


YOURS = """
import os
from pathlib import Path
from workers import Discard, Handlers, Reject

handlers = Handlers()

@handlers.message()
def yours(event):
    if event.id.endswith("1"):
        raise Discard("no")
    if event.id.endswith("2") and Path("rejects").exists():
        raise Reject("no")
    if event.id.endswith("3") and Path("fails").exists():
        raise ValueError
"""


def test_verified_with_other_handlers(
    pipeline: Callable[..., str], tmp_path: Path, commit: Any, message: Any, redis: Redis
) -> None:
    """With a user's handlers it goes by what the pipeline counts: all that was acknowledged must have ended, no more
    must wait than before, and dead letters, or what is to be tried again, are told with the commands that say more."""
    (tmp_path / "yours.py").write_text(YOURS)
    (tmp_path / "rejects").touch()
    commit(message("old 2"))
    url = pipeline(handlers="yours:handlers")
    few = ("--count", "60", "--mix", "messages=1,statuses=1", "--contacts", "5", "--verify-seconds", "2")
    line = one_line(run := verify(url, *few))
    dead = json.loads(run.stdout)["verify"]["dead"]
    assert line == f"Error: of 60 updates {dead} are dead letters: see `wa-ingest dead causes`"

    (tmp_path / "rejects").unlink()
    run = verify(url, *few, "--duplicates", "20%")
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    checked = json.loads(run.stdout)["verify"]
    assert checked["expected"] == checked["ended"] == 60
    ended = [checked[name] for name in ("handled", "unhandled", "discarded", "superseded")]
    assert (min(ended[:2]) > 0, ended[3], sum(ended)) == (True, 0, 60)
    none = {"missing": 0, "dead": 0, "waiting": 0, "retrying": 0, "repeated": None, "out_of_order": None}
    assert checked.items() >= none.items()

    (tmp_path / "fails").touch()
    line = one_line(run := verify(url, *few))
    checked = json.loads(run.stdout)["verify"]
    assert checked["missing"] == checked["retrying"] > 0
    assert f"; {checked['retrying']} events wait for their next try" in line


def test_what_nobody_wanted_is_told_apart() -> None:
    """A person is told how many updates ended, and how: one that nobody wanted was not handled."""
    account = Account(expected=30, handled=13, unhandled=15, discarded=2)
    rows = rows_of(Tally(sent=30, acknowledged=30), account)
    first = rows.index(["messages and statuses to be handled", "30"])
    assert rows[first + 1 : first + 6] == [
        ["ended, by what the pipeline counts", "30"],
        ["of these handled", "13"],
        ["of these unhandled", "15"],
        ["of these discarded", "2"],
        ["missing", "0"],
    ]
    assert report.wrong(Tally(), account) is None


@pytest.mark.parametrize(
    ("account", "says"),
    [
        (Account(4, handled=3, dead=1), "of 4 updates 1 is a dead letter: see `wa-ingest dead causes`"),
        (
            Account(1, waiting=1),
            "of 1 update 1 has not ended; 1 notification waits or is in work: see `wa-ingest status`",
        ),
        (Account(4, handled=4, retrying=1), "1 event waits for its next try: see `wa-ingest status`"),
        (
            Account(4, dead=2, waiting=2),
            "of 4 updates 2 have not ended, 2 are dead letters; 2 notifications wait or are in work: "
            "see `wa-ingest status` and `wa-ingest dead causes`",
        ),
    ],
)
def test_what_is_wrong_in_one_line(account: Account, says: str) -> None:
    """The error names what there is, in its number, and the commands that say more; nothing of which there is none."""
    assert report.wrong(Tally(), account) == says


def test_verified_without_workers(pipeline: Callable[..., str]) -> None:
    """What waits because nobody works on it is told as such."""
    line = one_line(verify(pipeline(workers=0), "--count", "10", "--mix", "messages=1", "--verify-seconds", "0.5"))
    assert line.endswith(
        "of 10 updates 10 have not ended; 10 notifications wait or are in work: see `wa-ingest status`"
    )


def test_interrupt_while_verifying(
    serve: Callable[..., Server], run_module: Callable[..., Any], redis: Redis, wait_for: Callable[..., None]
) -> None:
    """Ctrl-C while it waits for the workers ends it with what is known then."""
    arguments = ("simulate", "--to", serve().url, "--count", "5", "--mix", "messages=1", "--verify")
    process = run_module("workers.cli", *arguments, stderr=subprocess.PIPE)
    wait_for(lambda: any(c["cmd"] == "lrange" for c in redis.client_list()))  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert "missing" in out


def test_redis_goes_away_at_the_end(
    serve: Callable[..., Server], run_module: Callable[..., Any], own_valkey: Any, wait_for: Callable[..., None]
) -> None:
    """What was sent is told all the same: figures on standard output, why they are not verified in one line."""
    valkey, server = own_valkey(appendonly="yes"), serve()
    arguments = (
        "--to",
        server.url,
        "--count",
        "5",
        "--mix",
        "messages=1",
        "--verify",
        "--verify-seconds",
        "2",
        "--json",
    )
    env = os.environ | {"WA_REDIS_URL": valkey.url}
    process = run_module("workers.cli", "simulate", *arguments, stderr=subprocess.PIPE, env=env)
    wait_for(lambda: len(server.bodies) == 5)
    valkey.stop()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    found = json.loads(out)
    assert (found["sent"], found["acknowledged"], found["verify"]) == (5, 5, None)
    (line,) = err.splitlines()
    assert line.startswith("Error: not verified, all else is above: Redis is not reachable")


def test_redis_goes_and_comes_back_while_verifying(
    serve: Callable[..., Server], run_module: Callable[..., Any], own_valkey: Any, wait_for: Callable[..., None]
) -> None:
    """Redis may be away for a while: what workers write down afterwards counts."""
    valkey, server = own_valkey(appendonly="yes"), serve()
    arguments = ("--to", server.url, "--count", "5", "--mix", "messages=1", "--verify", "--json")
    env = os.environ | {"WA_REDIS_URL": valkey.url}
    process = run_module("workers.cli", "simulate", *arguments, stderr=subprocess.PIPE, env=env)
    wait_for(lambda: any(c["cmd"] == "lrange" for c in valkey.client().client_list()))
    valkey.stop()
    valkey.start()
    wait_for(lambda: any(c["cmd"] == "lrange" for c in valkey.client().client_list()))
    for body in server.bodies:
        (event,) = parse(body, 0)
        known = bodies.recognise(event.id)
        record = verifying._RECORD.pack(0, known.contact, known.sequence)
        valkey.client().rpush(keys.simulated_key(known.run), record)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["verify"]["handled"] == 5


def test_nothing_is_handled(serve: Callable[..., Server], redis_url: str) -> None:
    """When no worker writes anything down it says which handlers are needed."""
    run = verify(serve().url, "--count", "10", "--verify-seconds", "0.2")
    assert "WA_HANDLERS=workers.simulator.verifying:handlers" in one_line(run)
