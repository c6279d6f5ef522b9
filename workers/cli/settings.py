"""`wa-ingest settings`."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from ingest.settings import Settings, variable
from ingest.telemetry.printable import printable
from workers.cli import tables
from workers.cli.terminal import as_json, cli_errors, current_settings, print_json


@click.command()
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
            print_json(rows)
            return
        found = []
        for name, value in current.items():
            shown = Text("unset", style="dim") if value is None else Text(printable(str(value)), style="bold")
            found.append((variable(name), tables.stacked(shown, fields[name].description or "")))
        Console().print(tables.of(("variable", "value, and what it means"), found))
        click.echo("Each may also be given as NAME_FILE, the path of a file that holds the value.")
