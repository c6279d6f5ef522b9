"""Child processes: started in order, started again, stopped in order, and ended with their parent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from prometheus_client import multiprocess

from ingest import supervisor
from ingest.signals import RENEW, listen
from ingest.terminal import TERSE

ROOT = Path(__file__).parents[2]
WaitFor = Callable[..., None]

# A child: notes its starts and its end in a shared file, and does what its arguments say.
CHILD = """
import os, signal, sys, time
log, name, *behaviour = sys.argv[1:]
def note(what):
    with open(log, "a") as file:
        file.write(f"{name} {what} {os.getpid()} {int(os.getpid() == os.getsid(0))}\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
told = []
def stop_when_told_twice(*_):
    note("told")
    told.append(1)
    if len(told) == 2:
        sys.exit(0)
slow = "slow-to-stop" in behaviour
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in behaviour else stop_when_told_twice if slow else stop)
if "watches" in behaviour:
    from ingest import child  # takes its time, so only where it counts
    child.watch_parent()
if "signs" in behaviour:
    import faulthandler
    from ingest import signs
    faulthandler.enable()
    signs.give_steadily()
note("started")
if "stuck" in behaviour and open(log).read().count(f"{name} started") == 1:
    import ctypes
    ctypes.PyDLL(None).sleep(600)  # no other thread of this process runs meanwhile
if "gives-up" in behaviour:
    sys.exit(78)
if "gives-up-second" in behaviour and open(log).read().count(f"{name} started") == 2:
    sys.exit(78)
if "done" in behaviour:
    note("done")
    sys.exit(0)
if "fails-at-first" in behaviour and open(log).read().count(f"{name} started") == 1:
    sys.exit(1)
if "fails" in behaviour:
    sys.exit(1)
if "ready" in behaviour:
    note("ready")
while True:
    time.sleep(600)
"""

PARENT = """
import sys
from ingest import supervisor
log = sys.argv[1]
supervisor._LOOK_SECONDS = 0.2
specs = [spec._replace(stop_seconds=float(sys.argv[2])) for spec in {specs}]
def started():
    with open(log, "a") as file:
        file.write("parent started 0 0\\n")
sys.exit(supervisor.supervise(specs, started=started))
"""


# Asked whether a child is ready: ends when a note is there.
ASKED = """
import sys, time
from ingest import child
child.watch_parent()
log, note, *pids = sys.argv[1:]
while note not in open(log).read():
    time.sleep(0.02)
"""


class Family:
    """A supervising process and what its children noted."""

    def __init__(self, folder: Path, specs: tuple[str, ...], stop_seconds: float) -> None:
        (folder / "child.py").write_text(CHILD)
        (folder / "asked.py").write_text(ASKED)
        (folder / "parent.py").write_text(PARENT.replace("{specs}", f"[{', '.join(specs)}]"))
        self.notes_path = folder / "notes"
        self.notes_path.touch()
        self.output_path = folder / "output"
        env = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "TMPDIR": str(folder)}  # a killed one leaves its folder
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "parent", str(self.notes_path), str(stop_seconds)],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def notes(self) -> list[str]:
        """`NAME WHAT` of all that was noted, in order."""
        return [" ".join(line.split()[:2]) for line in self.notes_path.read_text().splitlines()]

    def pids(self, name: str) -> list[int]:
        """Process ids of a child, in the order of its starts."""
        lines = [line.split() for line in self.notes_path.read_text().splitlines()]
        return [int(pid) for who, what, pid, _ in lines if (who, what) == (name, "started")]

    def count(self, note: str) -> int:
        return self.notes().count(note)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for line in self.notes_path.read_text().splitlines():
            if line.split()[1] == "started" and (pid := int(line.split()[2])) and alive(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether it still runs: not gone, and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def start_family(tmp_path: Path) -> Iterator[Callable[..., Family]]:
    """Start a supervising process: `start_family(spec("a"), spec("b"))`."""
    families: list[Family] = []

    def start(*specs: str, stop_seconds: float = 20) -> Family:
        families.append(Family(tmp_path, specs, stop_seconds))
        return families[-1]

    yield start
    for family in families:
        family.close()


def spec(name: str, *behaviour: str, ready: str | None = None, **more: object) -> str:
    """The source of a ProcessSpec whose child behaves so; `ready` is the note that says it is."""
    options = "".join(f", {option}={value!r}" for option, value in more.items())
    if ready is not None:
        options += f", ready=('asked', log, {ready!r})"
    return f"supervisor.ProcessSpec({name!r}, 'child', (log, {name!r}, *{behaviour!r}){options})"


def test_killed_child_is_started_again(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A child that was killed is started again, and the others are left alone."""
    family = start_family(spec("a", processes=2), spec("b"))
    wait_for(lambda: family.count("parent started") and family.count("a started") == 2 and family.count("b started"))
    os.kill(family.pids("a")[0], signal.SIGKILL)
    wait_for(lambda: family.count("a started") == 3)
    os.kill(family.pids("a")[-1], signal.SIGKILL)
    wait_for(lambda: family.count("a started") == 4)
    assert family.count("b started") == 1
    (first, _) = map(json.loads, family.output_path.read_text().splitlines())
    assert first["pid"] == family.pids("a")[0]
    assert first["reason"].startswith("killed by signal 9 (SIGKILL), by somebody, or because memory ran out")
    family.process.terminate()
    assert family.process.wait(30) == 0


def test_child_that_keeps_dying(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A child that dies at once is started again ever more rarely, so that it does not fill the log."""
    family = start_family(spec("a", "fails"))
    wait_for(lambda: family.count("a started") == 3)
    waits = [line.split('"wait_seconds": ')[1][:3] for line in family.output_path.read_text().splitlines()]
    assert waits[:2] == ["0.2", "0.4"]


def test_backoff_is_bounded() -> None:
    """However often a child has ended, it is started again after at most ten seconds."""
    child = supervisor._Child(supervisor.ProcessSpec("a", "platform"), os.environ, "")
    child.process.communicate()
    backoffs = [child.back_off() for _ in range(2000)]
    assert backoffs[:3] == [0.2, 0.4, 0.8]
    assert max(backoffs) == backoffs[-1] == 10.0


def test_child_that_gives_up_ends_all(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """When one child says that trying again is no use, all are stopped and the exit status is 1."""
    family = start_family(spec("gives", "gives-up"), spec("b", "ready", ready="b ready"))
    assert family.process.wait(30) == 1
    assert family.count("gives started") == 1
    assert family.count("b stopped") == 1
    assert not any(alive(pid) for pid in family.pids("b"))


def test_gives_up_before_ready(start_family: Callable[..., Family]) -> None:
    """A child that gives up before it is ready ends all at once, and what needs it is never started."""
    family = start_family(spec("needs"), spec("gives", "gives-up", ready="never"))
    assert family.process.wait(30) == 1
    assert family.notes() == ["gives started"]


def test_dies_before_ready(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A child that dies before it is ready is started again while the others wait for it."""
    family = start_family(spec("needs"), spec("a", "fails-at-first", "ready", ready="a ready"))
    wait_for(lambda: family.count("needs started"))
    assert family.notes()[:3] == ["a started", "a started", "a ready"]


def test_start_and_stop_order(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """What others need is started first and ready before they start, and is stopped after they have ended."""
    first, second, third = (spec(n, "ready", ready=f"{n} ready") for n in ("work", "serve", "valkey"))
    family = start_family(first, second, third)
    wait_for(lambda: family.count("parent started"))
    family.process.send_signal(signal.SIGINT)
    assert family.process.wait(30) == 0
    assert [note for note in family.notes() if "ready" not in note] == [
        *("valkey started", "serve started", "work started", "parent started"),
        *("work stopped", "serve stopped", "valkey stopped"),
    ]
    assert [note for note in family.notes() if "ready" in note] == ["valkey ready", "serve ready", "work ready"]


def test_stopped_while_it_waits_for_ready(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A stop while a child is still getting ready ends all, in order."""
    family = start_family(spec("needs"), spec("slow", ready="never"))
    wait_for(lambda: family.count("slow started"))
    family.process.terminate()
    assert family.process.wait(30) == 0
    assert family.notes() == ["slow started", "slow stopped"]


def test_ends_when_the_work_is_done(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """With `ends`, exit status 0 means done: when all of that spec are, the others are stopped and all is well."""
    family = start_family(spec("burst", "done", processes=3, ends=True), spec("b", "ready", ready="b ready"))
    assert family.process.wait(30) == 0
    assert (family.count("burst started"), family.count("burst done"), family.count("b stopped")) == (3, 3, 1)


def test_ends_only_with_success(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """With `ends`, a child that fails is not done: it is started again."""
    family = start_family(spec("burst", "fails", ends=True))
    wait_for(lambda: family.count("burst started") == 2)
    assert family.process.poll() is None


def test_exit_status_0_is_no_end(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """Without `ends`, a child that ends is started again whatever its exit status."""
    family = start_family(spec("a", "done"))
    wait_for(lambda: family.count("a started") == 2)


def test_deaf_child_is_killed(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A child that does not stop in time is killed, and the others still have their turn."""
    family = start_family(spec("deaf", "deaf"), spec("b"), stop_seconds=1)
    wait_for(lambda: family.count("deaf started") and family.count("b started"))
    family.process.terminate()
    assert family.process.wait(30) == 0
    assert not alive(family.pids("deaf")[0])
    assert family.count("b stopped") == 1
    assert "does not stop, killing it" in family.output_path.read_text()


def test_a_child_that_is_stuck_is_replaced(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """One in which no Python code runs any more prints its stack, is ended, and the log says so; others go on."""
    family = start_family(
        spec("stuck", "signs", "stuck", silent_seconds=4), spec("b", "signs", silent_seconds=4), spec("c")
    )
    wait_for(lambda: family.count("stuck started") == 2)
    output = family.output_path.read_text()
    assert "process gives no sign of life, ending it" in output
    assert "child.py" in output.partition("Fatal Python error: Aborted")[2]
    assert family.count("b started") == family.count("c started") == 1


def test_a_child_that_is_stopped_is_replaced(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A process that gets no signal but SIGKILL, either, is killed."""
    family = start_family(spec("a", "signs", silent_seconds=4))
    wait_for(lambda: family.count("a started") == 1)
    os.kill(family.pids("a")[0], signal.SIGSTOP)
    wait_for(lambda: family.count("a started") == 2)


def test_a_parent_that_was_stopped_ends_nobody(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """After a machine was frozen, the time in which nobody gave or saw a sign does not count."""
    family = start_family(spec("a", "signs", silent_seconds=4), spec("b", "fails-at-first"))
    wait_for(lambda: family.count("a started") == 1 and family.count("b started") == 2)
    os.kill(family.pids("a")[0], signal.SIGSTOP)
    os.kill(family.process.pid, signal.SIGSTOP)
    time.sleep(6)  # longer than the child may be silent
    os.kill(family.process.pid, signal.SIGCONT)
    os.kill(family.pids("a")[0], signal.SIGCONT)
    os.kill(family.pids("b")[1], signal.SIGKILL)
    wait_for(lambda: family.count("b started") == 3)  # so it has looked
    assert family.count("a started") == 1


def test_renewed_children_start_again(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """At RENEW each child that is renewed stops in order and a new one starts, without a word; the others stay."""
    family = start_family(spec("a", processes=2, renewed=True), spec("b"))
    wait_for(lambda: family.count("a started") == 2 and family.count("b started") == 1)
    wait_for(lambda: family.count("parent started"))
    family.process.send_signal(RENEW)
    wait_for(lambda: (family.count("a started"), family.count("a stopped")) == (4, 2))
    assert family.count("b started") == 1
    assert family.output_path.read_text() == ""
    family.process.terminate()
    assert family.process.wait(30) == 0
    assert (family.count("a stopped"), family.count("b stopped")) == (4, 1)


@pytest.mark.parametrize("how", ["killed", "renewed"])
def test_it_says_when_children_run_again(how: str, start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A line says when children that were killed or renewed are ready again, and after how long; none at the start."""
    family = start_family(spec("a", "ready", processes=2, renewed=True, ready="a ready"))
    wait_for(lambda: family.count("parent started") and family.count("a ready") == 2)
    assert family.output_path.read_text() == ""
    if how == "killed":
        os.kill(family.pids("a")[0], signal.SIGKILL)
    else:
        family.process.send_signal(RENEW)
    wait_for(lambda: "process runs again" in family.output_path.read_text())
    line = json.loads(family.output_path.read_text().splitlines()[-1])
    assert (line["event"], line["level"], line["process"]) == ("process runs again", "info", "a")
    assert 0 <= line["seconds"] < 60
    wait_for(lambda: family.count("a started") == (3 if how == "killed" else 4))
    family.process.terminate()
    assert family.process.wait(30) == 0


def test_a_renewed_child_that_does_not_stop(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """Another one starts at once beside it, and it is killed when its time is over."""
    family = start_family(spec("deaf", "deaf", renewed=True), stop_seconds=5)
    wait_for(lambda: family.count("parent started") and family.count("deaf started"))
    family.process.send_signal(RENEW)
    wait_for(lambda: family.count("deaf started") == 2)
    assert alive(family.pids("deaf")[0])
    wait_for(lambda: "processes with the code before finish what they have begun" in family.output_path.read_text())
    wait_for(lambda: "does not stop, killing it" in family.output_path.read_text())
    wait_for(lambda: not alive(family.pids("deaf")[0]))
    assert alive(family.pids("deaf")[1])


def test_a_stop_ends_those_that_were_replaced(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """What still finishes beside its successor gets its time, and then ends with all others."""
    family = start_family(spec("deaf", "deaf", renewed=True), stop_seconds=5)
    wait_for(lambda: family.count("parent started") and family.count("deaf started"))
    family.process.send_signal(RENEW)
    wait_for(lambda: family.count("deaf started") == 2)
    family.process.terminate()
    assert family.process.wait(60) == 0
    assert not any(map(alive, family.pids("deaf")))


def test_a_second_stop_is_passed_on(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """Who is told to stop once more tells its children: a worker that is told twice gives handlers no more time."""
    family = start_family(spec("a", "slow-to-stop"), stop_seconds=600)
    wait_for(lambda: family.count("parent started") and family.count("a started"))
    family.process.send_signal(signal.SIGINT)
    wait_for(lambda: family.count("a told"))
    family.process.send_signal(signal.SIGINT)
    assert family.process.wait(60) == 0
    assert family.count("a told") == 2


def test_a_renewed_child_that_gives_up(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """It ends nobody else, is not tried again by itself, and starts at the next RENEW."""
    family = start_family(spec("a", "gives-up-second", renewed=True), spec("b"))
    wait_for(lambda: family.count("parent started") and family.count("a started") and family.count("b started"))
    family.process.send_signal(RENEW)
    wait_for(lambda: family.count("a started") == 2)
    wait_for(lambda: not alive(family.pids("a")[1]))
    os.kill(family.pids("b")[-1], signal.SIGKILL)
    wait_for(lambda: family.count("b started") == 2)  # so it has looked at its children since
    assert family.count("a started") == 2
    family.process.send_signal(RENEW)
    wait_for(lambda: family.count("a started") == 3)
    assert family.process.poll() is None


def test_a_child_that_waits_for_its_restart_is_renewed_at_once(
    start_family: Callable[..., Family], wait_for: WaitFor
) -> None:
    """RENEW does not wait for the time that a child which died has to wait."""
    family = start_family(spec("a", "fails", renewed=True))
    wait_for(lambda: family.output_path.read_text().count("starting it again") == 6)  # 6.4 s until the next start
    began = time.monotonic()
    family.process.send_signal(RENEW)
    wait_for(lambda: family.count("a started") == 7)
    assert time.monotonic() - began < 5


def test_a_child_is_told_to_stop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while a child stops already tells it nothing: a second signal would cut its work short."""
    told: list[int] = []
    monkeypatch.setattr(subprocess.Popen, "terminate", lambda process: told.append(process.pid))
    group = supervisor._Group(
        supervisor.ProcessSpec("a", "http.server", ("0",), stop_seconds=0.1, renewed=True), {}, ""
    )
    group.start()
    group.renew()
    group.renew()
    with listen(renew=False) as signals:
        group.stop(signals)
    assert len(told) == len(set(told)) == 3


def test_a_changed_file(start_family: Callable[..., Family], wait_for: WaitFor, tmp_path: Path) -> None:
    """Of each change of a file that children read at their start one line is written; they go on as they are."""
    file = tmp_path / "read.toml"
    file.touch()
    family = start_family(spec("a", reads=(str(file),), silent_seconds=600.0))
    wait_for(lambda: family.count("parent started") and family.count("a started"))
    for n, text in enumerate(("one", "three"), 1):
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(file)
        wait_for(lambda n=n: len(family.output_path.read_text().splitlines()) == n)
    file.unlink()  # as an editor does, before it writes it anew
    os.kill(family.pids("a")[0], signal.SIGKILL)
    wait_for(lambda: family.count("a started") == 2)  # so it has looked
    first, second, ended = map(json.loads, family.output_path.read_text().splitlines())
    assert (first["event"], first["file"]) == (second["event"], second["file"])
    assert first["event"] == "file changed, but is read at the start only: restart to use it"
    assert first["file"] == str(file)
    assert "starting it again" in ended["event"]


def test_children_end_with_a_killed_parent(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """When the parent is killed, its children stop by themselves, in order."""
    family = start_family(spec("a", "watches", processes=2), spec("b", "watches"))
    wait_for(lambda: family.count("a started") == 2 and family.count("b started") == 1)
    family.process.kill()
    wait_for(lambda: family.count("a stopped") == 2 and family.count("b stopped") == 1)
    wait_for(lambda: not any(alive(pid) for pid in family.pids("a") + family.pids("b")))


def test_children_have_their_own_session(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """Ctrl-C on the terminal reaches only the parent, which stops the children in the right order."""
    family = start_family(spec("a"), spec("b"))
    wait_for(lambda: family.count("a started") and family.count("b started"))
    lines = [line.split() for line in family.notes_path.read_text().splitlines()]
    assert {own for who, _, _, own in lines if who in "ab"} == {"1"}


def test_stop_is_prompt(start_family: Callable[..., Family], wait_for: WaitFor) -> None:
    """A stop also ends a child that is about to be started again, without waiting for its turn."""
    family = start_family(spec("a", "fails"))
    wait_for(lambda: family.output_path.read_text().count("starting it again") == 4)  # 1.6 s until the next start
    began = time.monotonic()
    family.process.terminate()
    assert family.process.wait(30) == 0
    assert time.monotonic() - began < 1.5


def test_metrics_folder(tmp_path: Path) -> None:
    """The children share one folder for their figures, which is gone afterwards."""
    (tmp_path / "child.py").write_text(
        "import os, sys; from pathlib import Path\n"
        "folder = Path(os.environ['PROMETHEUS_MULTIPROC_DIR'])\n"
        "assert folder.is_dir() and os.environ['MORE'] == '1'\n"
        "Path(sys.argv[1]).write_text(str(folder))\n"
    )
    code = (
        "import sys; from ingest import supervisor\n"
        "specs = [supervisor.ProcessSpec('a', 'child', (sys.argv[1],), ends=True)]\n"
        "sys.exit(supervisor.supervise(specs, {'MORE': '1'}))"
    )
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    arguments = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.run(arguments, env=env, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert not Path((tmp_path / "out").read_text()).exists()


BECOME = """
import os, signal, sys
from ingest import supervisor
log, *behaviour = sys.argv[1:]
if "stopped" in behaviour:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
ready = ("asked", log, "a ready")
spec = supervisor.ProcessSpec("a", "child", (log, "a", "ready"), ready=ready, env={"OWN": "hunter2"})
supervisor.become([spec], {"MORE": "1"}, banner="all run\\n", farewell="all stopped\\n")
"""


@pytest.fixture
def become(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program that becomes one that supervises."""
    for name, code in {"child": CHILD, "asked": ASKED, "parent": BECOME}.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "notes").touch()
    started: list[subprocess.Popen[str]] = []

    def start(*behaviour: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "parent", str(tmp_path / "notes"), *behaviour]
        env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        started.append(subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_command_becomes_the_program(become: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """It keeps its process id and shows what was called, but no password; its children get their environment alone."""
    parent = become("serve")
    assert parent.stdout is not None
    assert parent.stdout.readline() == "all run\n"
    name, what, pid, _ = (tmp_path / "notes").read_text().split()[:4]
    assert (name, what) == ("a", "started")
    call = Path(f"/proc/{parent.pid}/cmdline").read_text().split("\0")
    assert call[:4] == [sys.executable, "-P", "-m", "ingest.supervisor"]
    assert "serve" in call
    assert "hunter2" not in "".join(call)
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert {"OWN=hunter2", "MORE=1"} <= set(environment)
    assert not [variable for variable in environment if variable.startswith(supervisor._PLAN)]
    parent.terminate()
    assert parent.wait(30) == 0
    assert parent.stdout.read() == "all stopped\n"
    assert (tmp_path / "notes").read_text().split()[-3] == "stopped"


def test_a_stop_while_it_becomes_the_program(become: Callable[..., subprocess.Popen[str]]) -> None:
    """SIGTERM between the checks and the first child is a stop like any other."""
    parent = become("stopped")
    assert parent.wait(30) == 0
    assert parent.stdout is not None
    assert parent.stdout.read() == "all stopped\n"


def test_it_imports_only_what_python_brings() -> None:
    """The program that supervises imports nothing that is installed, because it runs for as long as its children."""
    code = "import sys, ingest.supervisor; print(*{name.partition('.')[0] for name in sys.modules})"
    call = [sys.executable, "-S", "-c", code]
    done = subprocess.run(call, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"ingest", "__main__"}


def test_its_log_lines_look_like_all_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON with the same names in the same order, and on a terminal the same columns."""
    supervisor._warn("process ended", process="worker", status=-9)
    ours = json.loads(capsys.readouterr().err)
    code = (
        "from ingest.loggers import get_logger; from ingest.telemetry import logs; logs.configure()\n"
        "get_logger('ingest.supervisor').warning('process ended', process='worker', status=-9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stderr)
    assert list(ours) == list(theirs)
    assert len(ours["timestamp"]) == len(theirs["timestamp"])
    assert ours | {"timestamp": ""} == theirs | {"timestamp": ""}
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    supervisor._warn("process ended", process="worker", status=-9)
    coloured = capsys.readouterr().err
    line = coloured.replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert "[\x1b[33mwarning  \x1b[0m]" in coloured
    same = structlog.dev.ConsoleRenderer(colors=False)(None, "warning", theirs | {"timestamp": line.split()[0]})
    assert line == f"{same}\n"
    monkeypatch.setenv(TERSE, "1")
    monkeypatch.setenv("NO_COLOR", "1")
    supervisor._warn("process ended", process="worker", status=-9)
    terse = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[warning  \] process ended +process=worker status=-9\n", terse)


def test_gauges_of_a_process_that_ended(tmp_path: Path) -> None:
    """The files that go are those that prometheus_client would remove."""
    kinds = ("gauge_liveall", "gauge_livesum", "gauge_livemostrecent", "gauge_all", "gauge_mostrecent", "counter")
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        for name in (f"{kind}_{pid}.db" for kind in kinds for pid in (1, 11)):
            (tmp_path / folder / name).touch()
    supervisor._forget_gauges(1, str(tmp_path / "ours"))
    multiprocess.mark_process_dead(1, str(tmp_path / "theirs"))  # type: ignore[no-untyped-call]
    left = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("ours", "theirs")]
    assert left[0] == left[1]
    assert len(left[0]) == 2 * len(kinds) - 3
