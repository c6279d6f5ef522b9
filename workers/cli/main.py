"""`wa-ingest`: the group of all commands."""

from __future__ import annotations

import click

from workers.cli import env_file
from workers.cli.help import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="wa-ingest")
def main() -> None:
    """Receive WhatsApp Business notifications: durable in Redis, answered at once, handled by your code in workers.

    Settings come from environment variables, and from the file `.env` of the working folder where there is one;
    `wa-ingest settings` lists them. To try everything on this machine: `wa-ingest up`.
    """
    env_file.take()


if __name__ == "__main__":
    main()
