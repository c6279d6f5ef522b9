"""The commands by purpose, and the pages that `--help` shows."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from typing import Any, ClassVar

import click

from ingest.terminal import fitted

SECTIONS = {
    "Run": {
        "up": ("run", "Run everything on this machine, until Ctrl-C."),
        "serve": ("run", "Run the receiver, until SIGTERM or Ctrl-C."),
        "work": ("run", "Run workers, until SIGTERM or Ctrl-C."),
    },
    "See": {
        "status": ("status", "Show what waits, how old it is, how fast it goes, what failed."),
        "tail": ("tail", "Show events as workers handle them, until Ctrl-C; it holds up none of them."),
        "check": ("check", "Is everything fit for production? Exits 1 when something is an error."),
        "settings": ("settings", "Show every setting: its value now and what it means."),
        "help": ("topics", "Explain a finding or an error: what it means, which command tells more, what to do."),
    },
    "Steer": {
        "drain": (
            "drain",
            "Show how a backlog is drained, how fast and how long it will take; exit 0 when it is empty.",
        ),
        "pause": ("controls", "Stop handling some lanes, or all, or some handlers: what is for them waits."),
        "resume": ("controls", "Let paused lanes, or all, or paused handlers go on."),
        "limit": ("controls", "Cap how fast events of a lane, or of one handler, are handled."),
    },
    "Repair": {
        "retry": ("retry", "Try now what waits for its next try."),
        "dead": ("dead", "Look at dead letters, have them handled again, delete or export them."),
        "archive": ("archive", "Show what WA_ARCHIVE_DIR holds, by hour of arrival (UTC)."),
        "replay": ("archive", "Put notifications from the archive back into the queues, for workers to handle."),
    },
    "Write handlers": {
        "new": ("new", "Make a folder with a bot to begin with."),
        "handlers": (
            "handlers",
            "Show the handlers that WA_HANDLERS registers, in the order in which they are called.",
        ),
        "call": (
            "handlers",
            "Run the body in FILE (- is standard input) through your handlers, in this process, without Redis.",
        ),
        "destinations": ("destinations", "Show the destinations in the file that WA_DESTINATIONS names."),
        "schema": ("schema", "Print the form of what destinations get: JSON Schema, or TypeScript."),
    },
    "Set the senders up, and play them": {
        "coreapp": (
            "coreapp",
            "Set the On-Premises client (the Coreapp) up: where its callbacks go, which, how many, what it trusts.",
        ),
        "cloud": ("cloud", "Tell the Cloud API where notifications go, and see which apps get them."),
        "simulate": ("simulate", "Post notifications to a receiver as WhatsApp's servers do."),
    },
}
"""Each command's module in this room, and the first sentence of its page: `wa-ingest --help` imports no command."""

EXAMPLES = {
    "up": ("wa-ingest up", "wa-ingest up --reload", "WA_HANDLERS=bot:handlers WA_PROCESSES=2 wa-ingest up"),
    "serve": ("wa-ingest serve", "WA_SPOOL_DIR=/var/spool/wa WA_DURABILITY=fsync wa-ingest serve --processes 4"),
    "work": (
        "WA_HANDLERS=bot:handlers wa-ingest work --processes 4",
        "wa-ingest work --lanes messages",
        "wa-ingest work --burst",
    ),
    "status": ("wa-ingest status", "wa-ingest status --watch", "wa-ingest status --json"),
    "tail": (
        "wa-ingest tail --kind message",
        "wa-ingest tail --type failed --json",
        "wa-ingest tail --contact 15550001 --personal",
        "wa-ingest tail --forward http://localhost:3000/webhook",
    ),
    "schema": ("wa-ingest schema", "wa-ingest schema --typescript"),
    "settings": ("wa-ingest settings",),
    "help": ("wa-ingest help", "wa-ingest help a-handler-hangs", "wa-ingest help redis"),
    "check": ("wa-ingest check", "wa-ingest check --json"),
    "drain": ("wa-ingest drain", "wa-ingest drain messages --processes 4"),
    "pause": ("wa-ingest pause", "wa-ingest pause statuses other", "wa-ingest pause --handler crm"),
    "resume": ("wa-ingest resume", "wa-ingest resume statuses --json", "wa-ingest resume --handler crm"),
    "limit": ("wa-ingest limit statuses 200/s", "wa-ingest limit --handler crm 50/s", "wa-ingest limit"),
    "retry": ("wa-ingest retry", "wa-ingest retry --handler crm"),
    "dead list": ("wa-ingest dead list --lane messages --newer-than 25h", "wa-ingest dead list --reason failed --json"),
    "dead causes": ("wa-ingest dead causes", "wa-ingest dead causes --newer-than 1h --json"),
    "dead show": ("wa-ingest dead show messages/1700000000000-0",),
    "dead retry": ("wa-ingest dead retry --reason failed --dry-run", "wa-ingest dead retry --reason failed --yes"),
    "dead drop": ("wa-ingest dead drop --reason unreadable --older-than 7d",),
    "dead export": ("wa-ingest dead export -o letters.jsonl", "wa-ingest dead export --kind message"),
    "archive": ("wa-ingest archive", "wa-ingest archive --json"),
    "replay": (
        "wa-ingest replay --from 2026-11-21T14:00 --to 2026-11-21T15:30 --dry-run",
        "wa-ingest replay --kind message --contact 15550001 --again",
        "wa-ingest replay /backup/2026-11-21 --lane messages --yes",
    ),
    "new": ("wa-ingest new mybot",),
    "handlers": ("wa-ingest handlers", "WA_HANDLERS=bot:handlers wa-ingest handlers --json"),
    "destinations": ("wa-ingest destinations", "WA_DESTINATIONS=destinations.toml wa-ingest destinations --check"),
    "call": ("wa-ingest call body.json", "wa-ingest call - --json"),
    "coreapp login": ("wa-ingest coreapp login --user admin", "wa-ingest coreapp login --user admin --first"),
    "coreapp settings show": ("wa-ingest coreapp settings show",),
    "coreapp settings apply": (
        "wa-ingest coreapp settings apply --url https://example.com/wa --dry-run",
        "wa-ingest coreapp settings apply --sent --delivered --read",
    ),
    "coreapp ca upload": ("wa-ingest coreapp ca upload our-ca.pem",),
    "coreapp ca show": ("wa-ingest coreapp ca show",),
    "coreapp ca delete": ("wa-ingest coreapp ca delete",),
    "coreapp health": ("wa-ingest coreapp health",),
    "cloud subscribe": (
        "wa-ingest cloud subscribe 102290129340398",
        "wa-ingest cloud subscribe --phone 106540352242922 --url https://bot.example",
    ),
    "cloud show": ("wa-ingest cloud show 102290129340398",),
    "simulate": (
        "wa-ingest simulate --to http://localhost:8080/webhook --count 1",
        "wa-ingest simulate --to http://localhost:8080/webhook --seconds 60 --verify",
        "wa-ingest simulate --to https://example.com/webhook --form onprem --rate 300",
    ),
}


class Commands(click.Group):
    """Imports a command when it is called, and lists all by section."""

    _modules: ClassVar = {name: module for section in SECTIONS.values() for name, (module, _) in section.items()}

    def invoke(self, ctx: click.Context) -> Any:
        """An error has whole words at the end of its lines, too."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.format_message = partial(_fitted, error.format_message())  # type: ignore[method-assign]
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"workers.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        _add_examples(command, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, sentence) for name, (_, sentence) in commands.items()])


def _fitted(message: str) -> str:
    return fitted(message, sys.stderr, len("Error: "))


def _add_examples(command: click.Command, *path: str) -> None:
    """Let the page of a command, or of each in a group, end with its examples."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            one.short_help = one.get_short_help_str(limit=200)  # click would cut it to fit one line
            _add_examples(one, *path, name)
    else:
        command.epilog = "\n".join(("\b", "Examples:", *(f"  {one}" for one in EXAMPLES[" ".join(path)])))
