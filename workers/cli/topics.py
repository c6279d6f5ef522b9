"""`wa-ingest help`: what to do about what one sees."""

from __future__ import annotations

import click

from ingest import troubleshooting
from workers.cli import tables


@click.command("help")
@click.argument("topic", required=False)
def help_(topic: str | None) -> None:
    """Explain a finding or an error: what it means, which command tells more, what to do.

    TOPIC is one that `wa-ingest check` or the page names, or the beginning or a part of one. Without it all topics are
    listed. The text is that of docs/troubleshooting.md.
    """
    sections = troubleshooting.sections()
    if topic is None:
        tables.show(("topic", "what one sees"), [(name, text.partition("\n")[0]) for name, text in sections.items()])
        return
    found = [topic] if topic in sections else [name for name in sections if topic.lower() in name]
    if not found:
        raise click.ClickException(f"no topic has {topic!r} in it: `wa-ingest help` lists them")
    click.echo("\n".join(sections[name] for name in found), nl=False)
