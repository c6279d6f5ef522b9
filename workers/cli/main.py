"""`wa-ingest`: the commands."""

from __future__ import annotations

import sys
import time

import click
import orjson
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest.settings import Settings, load, redis_url, variable
from ingest.store.local import DATA, socket_path
from ingest.telemetry import logs
from workers.cli import checks, embedded, preflight, process_specs, supervisor, tables
from workers.cli.archive import archive, replay
from workers.cli.cloud import cloud
from workers.cli.controls import limit, pause, resume
from workers.cli.coreapp import coreapp_group
from workers.cli.dead import dead
from workers.cli.drain import drain
from workers.cli.handlers import call, handlers
from workers.cli.help import Commands, add_examples
from workers.cli.simulate import simulate
from workers.cli.status import status
from workers.cli.terminal import as_json, cli_errors, current_settings, program


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="wa-ingest")
def main() -> None:
    """Receive WhatsApp Business notifications: durable in Redis, answered at once, handled by your code in workers.

    Settings come from environment variables; `wa-ingest settings` lists them. To try everything on this machine:
    `wa-ingest up`.
    """


@main.command()
def up() -> None:
    """Run everything on this machine, until Ctrl-C.

    Starts a receiver, WA_PROCESSES workers for each Redis, and, unless WA_REDIS_URL names a server, a Valkey server
    with its data in ./data (every write is on disk before it is answered). Nothing is lost at a stop: the next start
    goes on from there.
    """
    with cli_errors():
        settings = current_settings()
        if settings.redis_url is not None:
            preflight.redis(settings, must_answer=True)
            sys.exit(_up(settings, []))
        with embedded.locked(DATA):
            own = SecretStr(f"unix://{socket_path(DATA)}")
            sys.exit(_up(settings.model_copy(update={"redis_url": own}), [process_specs.valkey(DATA)]))


def _up(settings: Settings, servers: list[supervisor.ProcessSpec]) -> int:
    preflight.handlers(settings)
    logs.configure()
    specs = [*process_specs.up(settings), *servers]
    url = redis_url(settings)
    env = {"WA_REDIS_URL": url, "WA_SPOOL_DIR": str(settings.spool_dir or DATA / "spool")}
    return supervisor.supervise(specs, env=env, started=lambda: _welcome(settings, url, servers))


def _welcome(settings: Settings, url: str, servers: list[supervisor.ProcessSpec]) -> None:
    scheme = "https" if settings.tls_cert else "http"
    address = f"{scheme}://{_reached(*settings.listen)}{settings.path}"
    admin = f"http://{_reached(*settings.admin_listen)}/"
    body = (
        '{"contacts":[{"profile":{"name":"Ada"},"wa_id":"15550001"}],"messages":[{"from":"15550001","id":"try-1",'
        f'"timestamp":"{int(time.time())}","type":"text","text":{{"body":"Hello"}}}}]}}'
    )
    rows = {
        "receiver": address,
        "page": admin,
        "admin": f"{admin}healthz /readyz /metrics",
        "workers": f"{settings.processes} running {settings.handlers}",
        "redis": f"embedded Valkey, data in {DATA.resolve()}" if servers else "WA_REDIS_URL",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print("\nTry it, from another terminal:\n", style="bold")
    # Not through rich: a line to copy is printed as it is.
    click.echo(f"  curl -i {address} -d '{body}'{_credentials(settings)}")
    click.echo(f"  WA_REDIS_URL={url} {program()} status\n" if servers else f"  {program()} status\n")
    click.echo("Ctrl-C stops; nothing is lost.")


def _reached(host: str, port: int) -> str:
    """How a listener is reached from this machine."""
    here = "localhost" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"


def _credentials(settings: Settings) -> str:
    """A remark for a line that lacks the credentials that senders must have."""
    needed = [variable(name) for name in checks.GUARDS if getattr(settings, name)]
    return f"   # refused: {', '.join(needed)} is set" if needed else ""


@main.command()
@click.option("--processes", "count", type=click.IntRange(1, 1024), help="Receiver processes [WA_PROCESSES, 1].")
def serve(count: int | None) -> None:
    """Run the receiver, until SIGTERM or Ctrl-C.

    Answers 200 once a notification is durable, in Redis or in the spool (WA_SPOOL_DIR), and 503 when it cannot be.
    Several processes share the port. When it stops, it first commits and answers what it has read.
    """
    with cli_errors():
        settings = current_settings(processes=count)
        preflight.redis(settings, must_answer=False)
        logs.configure()
        sys.exit(supervisor.supervise([process_specs.receivers(settings, settings.processes)]))


@main.command()
@click.option("--lanes", help="Lanes to take from, comma separated [WA_LANES, all]: messages, statuses, other.")
@click.option("--processes", "count", type=click.IntRange(1, 1024), help="Worker processes [WA_PROCESSES, 1].")
@click.option("--burst", is_flag=True, help="Exit when no batch is left to take.")
def work(lanes: str | None, count: int | None, burst: bool) -> None:
    """Run workers, until SIGTERM or Ctrl-C.

    Each process takes batches, parses them and calls the handlers that WA_HANDLERS names. A process that dies is
    started again; another worker takes over its batch. When the workers stop, running handlers get 6 seconds to finish,
    then they are interrupted. Events that did not finish go back to the front of their queue.
    """
    with cli_errors():
        settings = current_settings(lanes=lanes, processes=count)
        preflight.redis(settings, must_answer=False)
        preflight.handlers(settings)
        logs.configure()
        env = {"WA_LANES": ",".join(settings.lanes)}
        sys.exit(supervisor.supervise(process_specs.workers(settings, burst), env=env))


@main.command()
@as_json
def settings(as_json: bool) -> None:
    """Show every setting: its value now and what it means.

    Secrets are masked. Any variable may also be given as NAME_FILE, the path of a file that holds the value.
    """
    with cli_errors():
        current = current_settings().model_dump(mode="json")
        fields = Settings.model_fields
        if as_json:
            rows = {
                variable(name): {"value": value, "meaning": fields[name].description} for name, value in current.items()
            }
            click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
            return
        table = tables.ruled("variable", "value", "meaning")
        for name, value in current.items():
            table.add_row(
                variable(name), Text("unset", style="dim") if value is None else str(value), fields[name].description
            )
        Console().print(table)
        click.echo("Each may also be given as NAME_FILE, the path of a file that holds the value.")


@main.command()
@as_json
def check(as_json: bool) -> None:
    """Is everything fit for production? Exits 1 when something is not.

    Checks who may post, certificates and the names of settings; the folders of spool and archive; whether Redis is
    reachable, new enough, keeps an append-only file and evicts nothing; dead letters that will soon be removed; and
    the handlers. Each warning or failure says what to do.
    """
    with cli_errors():
        current = load()
        redis_url(current)
        found = checks.run(current)
        if as_json:
            click.echo(orjson.dumps([one._asdict() for one in found], option=orjson.OPT_INDENT_2).decode())
        else:
            table = tables.ruled("", "check", "finding", "what to do")
            colours = {"ok": "green", "warning": "yellow", "failed": "bold red"}
            for one in found:
                table.add_row(Text(one.result, style=colours[one.result]), one.name, one.finding, one.advice)
            Console().print(table)
        if any(one.result == "failed" for one in found):
            sys.exit(1)


main.add_command(pause)
main.add_command(resume)
main.add_command(limit)
main.add_command(status)
main.add_command(dead)
main.add_command(drain)
main.add_command(archive)
main.add_command(replay)
main.add_command(handlers)
main.add_command(call)
main.add_command(coreapp_group)
main.add_command(cloud)
main.add_command(simulate)
add_examples(main)

if __name__ == "__main__":
    main()
