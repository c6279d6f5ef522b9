"""`wa-ingest help`: what to do about what one sees."""

from __future__ import annotations

from typing import ClassVar

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement

from ingest import troubleshooting
from workers.cli import tables


class _Table(TableElement):
    """A table whose long words are folded, not cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            for column in table.columns:  # type: ignore[union-attr]  # rich says less of it than it is
                column.overflow = "fold"
            yield table


class _Topic(Markdown):
    elements: ClassVar = Markdown.elements | {"table_open": _Table}


@click.command("help")
@click.argument("topic", required=False)
def help_(topic: str | None) -> None:
    """Explain a finding or an error: what it means, which command tells more, what to do.

    TOPIC is one that `wa-ingest check` or the page names, or the beginning or a part of one. Without it all topics are
    listed. The text is that of docs/troubleshooting.md; in a pipe it is Markdown.
    """
    sections = troubleshooting.sections()
    if topic is None:
        tables.show(("topic", "what one sees"), [(name, text.partition("\n")[0]) for name, text in sections.items()])
        return
    found = [topic] if topic in sections else [name for name in sections if topic.lower() in name]
    if not found and (told := [name for name in sections if topic.lower() in sections[name].lower()]):
        raise click.ClickException(f"no topic is called {topic!r}; these tell of it: {', '.join(told)}")
    if not found:
        raise click.ClickException(f"no topic has {topic!r} in it: `wa-ingest help` lists them")
    text = "\n".join(sections[name] for name in found)
    console = tables.console()
    if console.is_terminal:
        topics = text.replace("](#", "](")  # a link to a section names the topic
        console.print(_Topic(topics, code_theme="ansi_dark", hyperlinks=False))
    else:
        click.echo(text, nl=False)
