"""`wa-ingest new`: a folder with a bot to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from workers.cli.terminal import program

FILES = ("bot.py", "test_bot.py", "pytest.ini", ".env.example", ".gitignore", "compose.yaml", "README.md")

_TEMPLATE = Path(__file__).with_name("template")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Make a folder with a bot to begin with.

    It has bot.py, whose handlers answer texts, tests that pass, a compose.yaml that runs it in containers, an example
    of the .env with its secrets, and a README. In that folder `wa-ingest up --reload` runs it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise click.ClickException(f"{folder} is not empty: name a folder that is not there yet")
        for name in FILES:
            # Not under its own name: the tools that check this package would take it for a part of it.
            (folder / name).write_bytes((_TEMPLATE / f"{name.removeprefix('.')}-tpl").read_bytes())
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be made: {error.strerror}") from None
    click.echo(f"{folder} has a bot that answers texts; its README.md says what each file is for.\n")
    command = program()
    if os.sep in command and not os.path.isabs(command):  # from the folder, it is elsewhere
        command = os.path.relpath(command, folder)
    click.echo(f"  cd {folder}\n  {command} up --reload")
