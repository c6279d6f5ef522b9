"""`wa-ingest simulate`: a sender that behaves like the real ones."""

from __future__ import annotations

import asyncio
import math
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import uvloop
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from yarl import URL

from ingest import trust
from ingest.settings import redis_url, secrets
from ingest.store import connection
from workers.cli.terminal import as_json, cli_errors, current_settings, diagnose, print_json
from workers.simulator import accounting, report, sender, verifying
from workers.simulator.bodies import MIX, Content
from workers.simulator.counters import Tally
from workers.simulator.delays import Form
from workers.simulator.sender import Plan, Unauthorized, Unreachable

_DEFAULT_COUNT = 1000
_ONPREM_CONNECTIONS = (6, 12, 18, 24)
_REFRESH_SECONDS = 0.2


def _url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        url = URL(value)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise click.BadParameter("give http://HOST:PORT/PATH or https://HOST/PATH")
    return value


def _mix(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, float]:
    try:
        pairs = (part.split("=") for part in value.split(","))
        mix = {name.strip(): float(weight) for name, weight in pairs}
        Content(mix=mix)
    except ValueError:
        raise click.BadParameter("give weights such as messages=1,statuses=3,errors=0.01") from None
    return mix


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter("give a share such as 2% or 0.02")
    return share


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Number(click.FloatRange):
    """`nan` is in every range of click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("that is not a number", param, ctx)
        return number


_ABOVE_0 = _Number(min=0, min_open=True, max=1e9)


@click.command()
@click.option(
    "--to", "url", metavar="URL", required=True, callback=_url, help="Receiver; user:password@ is Basic auth."
)
@click.option(
    "--form", type=click.Choice(("cloud", "onprem")), default="cloud", show_default=True, help="Sender to play."
)
@click.option(
    "--mix",
    callback=_mix,
    default=",".join(f"{kind}={weight:g}" for kind, weight in MIX.items()),
    show_default=True,
    help="Weights of the notifications.",
)
@click.option("--contacts", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Contacts.")
@click.option("--batch", type=click.IntRange(1, 1000), default=1, show_default=True, help="Updates in a notification.")
@click.option("--connections", type=click.IntRange(1, 1000), help="Requests under way at a time [6].")
@click.option("--rate", type=_ABOVE_0, help="Notifications a second, whatever the answers.")
@click.option("--count", type=click.IntRange(1), help="Notifications to post [1000].")
@click.option("--seconds", type=_ABOVE_0, help="Post for this long.")
@click.option("--timeout", type=_ABOVE_0, default=10.0, show_default=True, help="Seconds for an answer.")
@click.option("--speed-up", type=_ABOVE_0, default=1.0, show_default=True, help="Divides the delays of retries.")
@click.option("--duplicates", callback=_share, default="0%", show_default=True, help="Post that share a second time.")
@click.option("--sign", is_flag=True, help="Sign with the first secret of WA_APP_SECRET.")
@click.option("--ca-file", type=_FILE, help="PEM file of the CA that the receiver's certificate is checked against.")
@click.option("--insecure", is_flag=True, help="Do not check the receiver's certificate.")
@click.option("--client-cert", type=_FILE, help="PEM file of the certificate to show to the receiver.")
@click.option("--client-key", type=_FILE, help="PEM file of its key, if it is not in the same file.")
@click.option("--verify", is_flag=True, help="Then check that everything was handled, once and in order.")
@click.option(
    "--verify-seconds",
    type=_ABOVE_0,
    default=60.0,
    show_default=True,
    help="Give up after this long without progress.",
)
@as_json
def simulate(
    url: str,
    form: Form,
    mix: dict[str, float],
    contacts: int,
    batch: int,
    connections: int | None,
    rate: float | None,
    count: int | None,
    seconds: float | None,
    timeout: float,
    speed_up: float,
    duplicates: float,
    sign: bool,
    ca_file: Path | None,
    insecure: bool,
    client_cert: Path | None,
    client_key: Path | None,
    verify: bool,
    verify_seconds: float,
    as_json: bool,
) -> None:
    """Post notifications to a receiver as WhatsApp's servers do.

    The bodies have the form of the Cloud API or of the On-Premises client: messages of several types, statuses of
    messages on their way (sent, delivered, read), now and then an error. Contacts take turns.

    By default the next one goes out when one of --connections is free (the On-Premises client has 6, 12, 18 or 24).
    With --rate they are due at an even pace, and the time of an answer counts from then, so a stall shows; at most
    --connections are under way, without that option 1000 (onprem: 24). The load ends after --count or --seconds,
    whichever comes first.

    Anything but 200, a broken connection or no answer in time is tried again: On-Premises after 3 s, 6 s, 9 s, …
    (at most 15 min) for a day; Cloud, of which only "less and less often" is documented, after 1 s, 2 s, 4 s, … (at
    most 6 h) for 7 days. It goes on until everything is acknowledged or given up. When nothing at the address ever
    answered and a notification could not connect 4 times, or its connection was broken 8 times, it ends and says
    why. A 401 before anything was acknowledged ends it, too. While no connection can be made, no new notifications
    are posted, except with --rate. Ctrl-C stops and shows the result so far.

    --duplicates posts a share again, byte for byte, after it was acknowledged, as when the 200 was lost.

    --verify asks the Redis of WA_REDIS_URL; in the folder of an `up` with a server of its own, that one. With workers
    that run with WA_HANDLERS=workers.simulator.verifying:handlers, each acknowledged message and status must be
    handled, and only once, unless a worker died or a handler failed meanwhile: repeats are permitted then, counted, and
    no failure. A message that was acknowledged before the contact's next one was posted must be handled before it. A
    status that WA_STATUS_ORDER=drop drops counts as missing. At most 10 million updates. With your own handlers it goes
    by what the pipeline counts (and what others post meanwhile, too): as many as were acknowledged must have ended,
    handled or because no handler wants them (unhandled), none as a dead letter, and nothing may wait. Order and repeats
    are not seen.

    The receiver is measured against the senders' rule: a median of at most 250 ms, less than 1 % over 1 s.

    After at most ten notifications the report is a few lines; times and shares follow when there are more.

    Exits 0 when everything was acknowledged (and verified), 1 otherwise.

    With --json an object: run, form, sent, first_try, acknowledged, retried, given_up, unacknowledged (after a
    stop), duplicates, posts, answers (requests by status, or timeout, broken, refused, dns, tls), seconds, rate
    (requests a second), latency_seconds (p50, p90, p99, max; null: no answer), over_1s (a share), rule (ok, broken;
    null: nothing was acknowledged), stopped, and verify: null, or expected, handled, missing, repeated,
    out_of_order, set_back (batches of dead workers that were put back, and failed calls of handlers, while it ran);
    with your own handlers expected, ended (the sum of handled, unhandled, discarded and superseded), these four,
    missing, dead, waiting, retrying, and null as repeated and out_of_order.
    """
    if form == "onprem" and connections not in (None, *_ONPREM_CONNECTIONS):
        raise click.UsageError("--connections: the On-Premises client has 6, 12, 18 or 24")
    if verify and (count or 0) * batch > verifying.MOST:
        raise click.UsageError(f"--verify: at most {verifying.MOST:,} updates, see --count and --batch")
    if count is None:
        count = verifying.MOST // batch if seconds and verify else None if seconds else _DEFAULT_COUNT
    content = Content(form, mix, contacts, batch)
    with cli_errors():
        plan = Plan(
            url=url,
            form=form,
            connections=connections or (None if rate else 6),
            rate=rate,
            count=count,
            seconds=seconds,
            timeout=timeout,
            speed_up=speed_up,
            duplicates=duplicates,
            secret=_secret() if sign else None,
            ssl=_tls(url, ca_file, insecure, client_cert, client_key),
        )
        redis = _reachable_redis() if verify else []
        set_back = verifying.set_back(redis)
        before = accounting.begin(redis) if redis else None
    check = verifying.Check(content) if verify else None
    tally = _send(plan, content, check)
    findings: verifying.Findings | accounting.Account | None = None
    problem = ""
    if before and check:
        try:
            findings = _verify(redis, content.run, check, before, verify_seconds)
            if isinstance(findings, verifying.Findings):
                findings = findings._replace(set_back=verifying.set_back(redis) - set_back)
        except (RedisError, OSError) as error:
            problem = f"not verified, all else is above: {diagnose(error)}"
    if as_json:
        found = {"run": content.run, "form": form} | report.as_json(tally, findings)
        print_json(found)
    else:
        Console().print(report.table(tally, findings))
    if wrong := report.wrong(tally, findings):
        raise click.ClickException(wrong)
    if problem:
        raise click.ClickException(problem)


def _secret() -> bytes:
    found = secrets(current_settings().app_secret)
    if not found:
        raise click.ClickException("--sign: set WA_APP_SECRET or WA_APP_SECRET_FILE")
    return found[0]


def _tls(
    url: str, ca_file: Path | None, insecure: bool, client_cert: Path | None, client_key: Path | None
) -> ssl.SSLContext | None:
    """How to connect; None: without TLS."""
    if URL(url).scheme != "https":
        if not (ca_file or insecure or client_cert or client_key):
            return None
        raise click.UsageError("--ca-file, --insecure, --client-cert and --client-key need https in --to")
    if client_key and not client_cert:
        raise click.UsageError("--client-key needs --client-cert")
    try:
        context = trust.context(ca_file=ca_file)
    except OSError as error:
        raise click.ClickException(f"--ca-file: {ca_file} holds no certificates: {error.strerror}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_cert:
        try:
            # A key with a passphrase is refused: there is nobody to ask in a script.
            context.load_cert_chain(client_cert, client_key, password=lambda: "")
        except OSError as error:
            raise click.ClickException(
                f"--client-cert: {client_cert} and its key cannot be used: {error.strerror}; give PEM files that "
                "belong together, the key without a passphrase"
            ) from None
    return context


def _reachable_redis() -> list[Redis]:
    each = list(connection.all_for_tools(redis_url(current_settings())).values())
    for redis in each:
        redis.ping()
    return each


def _send(plan: Plan, content: Content, check: verifying.Check | None) -> Tally:
    async def go() -> Tally:
        tally, stop = Tally(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, stop.set)
        with _progress("sent", plan.count) as progress:
            showing = asyncio.create_task(_show(progress, tally))
            try:
                return await sender.send(plan, content.notifications(), tally=tally, observer=check, stop=stop)
            finally:
                showing.cancel()
                loop.remove_signal_handler(signal.SIGINT)  # uvloop does not when it ends

    try:
        return uvloop.run(go())
    except Unreachable as error:
        raise click.ClickException(f"nothing ever answered at {_without_user(plan.url)}: {error}") from None
    except Unauthorized as error:
        raise click.ClickException(f"{_without_user(plan.url)} answers 401: {error}") from None


def _without_user(url: str) -> str:
    return str(URL(url).with_user(None))


@contextmanager
def _progress(word: str, total: int | None) -> Iterator[Progress]:
    """A line on a terminal, nothing elsewhere; its only task has the id 0."""
    console = Console(stderr=True)
    text = TextColumn("{task.completed:,.0f} {task.fields[word]}{task.fields[more]}")
    columns = (BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        progress.add_task("", total=total, word=word, more="")
        yield progress


async def _show(progress: Progress, tally: Tally) -> None:
    last = 0
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        rate, last = (tally.posts - last) / _REFRESH_SECONDS, tally.posts
        more = f", {rate:,.0f}/s, waiting for retry: {tally.waiting:,}"
        progress.update(progress.task_ids[0], completed=tally.sent, more=more)


def _verify(
    redis: list[Redis], run: str, check: verifying.Check, before: accounting.Account, patience: float
) -> verifying.Findings | accounting.Account:
    """Wait for the workers; those with other handlers than ours are known by what they count. Ctrl-C ends it with what
    is known then.
    """
    findings, account = check.findings(), before
    with _progress("handled", findings.expected) as progress:
        try:
            for account in accounting.look(redis, findings.expected, before, patience):
                progress.update(progress.task_ids[0], completed=account.ended)
                if not findings.expected or verifying.is_written_down(redis, run):
                    break
            else:
                return account if any(account[1:]) else findings
            for findings in verifying.look(redis, run, check, patience):
                progress.update(progress.task_ids[0], completed=findings.handled)
        except KeyboardInterrupt:
            findings = check.findings()
    return findings
