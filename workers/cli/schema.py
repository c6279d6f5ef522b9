"""`wa-ingest schema`."""

from __future__ import annotations

import click

from workers.events import schema as forms


@click.command()
@click.option("--typescript", is_flag=True, help="TypeScript instead of JSON Schema.")
def schema(typescript: bool) -> None:
    """Print the form of what destinations get: JSON Schema, or TypeScript.

    The schema is of draft 2020-12. It is made from real notifications. Nothing in it is sure to be there,
    and senders add keys.
    """
    click.echo(forms.typescript() if typescript else forms.json_schema(), nl=False)
