"""The pages that `--help` shows: commands by purpose, and examples."""

from __future__ import annotations

import click

SECTIONS = {
    "Run": ("up", "serve", "work"),
    "See": ("status", "check", "settings"),
    "Steer": ("drain", "pause", "resume", "limit"),
    "Repair": ("dead", "archive", "replay"),
    "Write handlers": ("handlers", "call"),
    "Set the senders up, and play them": ("coreapp", "cloud", "simulate"),
}

EXAMPLES = {
    "up": ("wa-ingest up", "WA_HANDLERS=bot:handlers WA_PROCESSES=2 wa-ingest up"),
    "serve": ("wa-ingest serve", "WA_SPOOL_DIR=/var/spool/wa WA_DURABILITY=fsync wa-ingest serve --processes 4"),
    "work": (
        "WA_HANDLERS=bot:handlers wa-ingest work --processes 4",
        "wa-ingest work --lanes messages",
        "wa-ingest work --burst",
    ),
    "status": ("wa-ingest status", "wa-ingest status --watch", "wa-ingest status --json"),
    "settings": ("wa-ingest settings",),
    "check": ("wa-ingest check", "wa-ingest check --json"),
    "drain": ("wa-ingest drain", "wa-ingest drain messages --processes 4"),
    "pause": ("wa-ingest pause", "wa-ingest pause statuses other"),
    "resume": ("wa-ingest resume", "wa-ingest resume statuses --json"),
    "limit": ("wa-ingest limit statuses 200/s", "wa-ingest limit statuses off", "wa-ingest limit"),
    "dead list": ("wa-ingest dead list --lane messages --newer-than 25h", "wa-ingest dead list --reason failed --json"),
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
    "handlers": ("wa-ingest handlers", "WA_HANDLERS=bot:handlers wa-ingest handlers --json"),
    "call": ("wa-ingest call body.json", "wa-ingest call - --json"),
    "coreapp login": ("wa-ingest coreapp login --user admin", "wa-ingest coreapp login --user admin --first"),
    "coreapp settings show": ("wa-ingest coreapp settings show",),
    "coreapp settings apply": (
        "wa-ingest coreapp settings apply --url https://example.com/webhook --sent --delivered --read --dry-run",
    ),
    "coreapp ca upload": ("wa-ingest coreapp ca upload our-ca.pem",),
    "coreapp ca show": ("wa-ingest coreapp ca show",),
    "coreapp ca delete": ("wa-ingest coreapp ca delete",),
    "coreapp health": ("wa-ingest coreapp health",),
    "cloud subscribe": (
        "wa-ingest cloud subscribe 102290129340398",
        "wa-ingest cloud subscribe --phone 106540352242922 --url https://example.com/webhook",
    ),
    "cloud show": ("wa-ingest cloud show 102290129340398",),
    "simulate": ("wa-ingest simulate --to http://localhost:8080/webhook --rate 300 --seconds 60 --verify",),
}


class Commands(click.Group):
    """Lists its commands by section."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=200)) for name in names])


def add_examples(group: click.Group, *path: str) -> None:
    """Let each command's page end with its examples."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            add_examples(command, *path, name)
        else:
            command.epilog = "\n".join(("\b", "Examples:", *(f"  {one}" for one in EXAMPLES[" ".join((*path, name))])))
