"""`wa-ingest cloud`: the commands that tell the Cloud API where notifications go."""

from __future__ import annotations

import click

from ingest import trust
from ingest.settings import load, secrets
from ingest.terminal import aside
from workers.cli import tables
from workers.cli.terminal import as_json, cli_errors, print_json
from workers.setup import graph as graph_room
from workers.setup.api import ApiError, Server, https_url
from workers.setup.credentials import from_environment
from workers.setup.graph import LONGEST_URL, Graph, Override

_TOKEN = "GRAPH_TOKEN"  # noqa: S105 - the variable's name


def _id(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isdigit()):
        raise click.BadParameter("an id is a number")
    return value


@click.group()
@click.option(
    "--graph",
    "url",
    metavar="URL",
    envvar="GRAPH_API",
    default="https://graph.facebook.com/v24.0",
    show_default=True,
    help="The Graph API with its version [GRAPH_API].",
)
@click.pass_context
def cloud(ctx: click.Context, url: str) -> None:
    """Tell the Cloud API where notifications go, and see which apps get them.

    The access token comes from GRAPH_TOKEN, or from the file that GRAPH_TOKEN_FILE names. It needs the permission
    whatsapp_business_management.

    \b
        export GRAPH_TOKEN_FILE=token WA_VERIFY_TOKEN_FILE=verify-token
        wa-ingest cloud subscribe 102290129340398
        wa-ingest cloud subscribe 102290129340398 --url https://example.com/wa
        wa-ingest cloud show 102290129340398
    """
    ctx.obj = url


def _graph(url: str) -> Graph:
    token = from_environment(_TOKEN)
    if token is None:
        raise ApiError(f"no access token: set {_TOKEN} or {_TOKEN}_FILE")
    plain_on = ("127.0.0.1", "localhost")  # a stand-in on this machine
    advice = "see this machine's trusted certificates (SSL_CERT_FILE)"
    return Graph(Server(https_url(url, "--graph", plain_on), "--graph", trust.context(), advice), token)


@cloud.command()
@click.argument("waba", metavar="[WABA_ID]", required=False, callback=_id)
@click.option("--phone", metavar="PHONE_NUMBER_ID", callback=_id, help="Only this phone number, instead of a WABA.")
@click.option("--url", help=f"Override the app's URL: https, at most {LONGEST_URL} characters.")
@click.pass_obj
def subscribe(api: str, waba: str | None, phone: str | None, url: str | None) -> None:
    """Let the token's app get the notifications of a WhatsApp Business account (WABA).

    With --url they go there instead of to the app's own URL; without it, an earlier override of the WABA ends. With
    --phone and --url, only those of one phone number go there. The app must be subscribed before it can override. Meta
    overrides only messages and a few other fields.

    Meta calls the URL at once, with this command's WA_VERIFY_TOKEN (or WA_VERIFY_TOKEN_FILE): the receiver must be up
    and have the same token.
    """
    if (waba is None) == (phone is None):
        raise click.UsageError("give a WABA_ID, or --phone")
    if phone is not None and url is None:
        raise click.UsageError("--phone needs --url")
    graph = _graph(api)
    override = None if url is None else _override(url)
    if waba is not None:
        graph_room.subscribe(graph, waba, override)
    if phone is not None and override is not None:
        graph_room.override_phone(graph, phone, override)
    click.echo(f"Notifications of {waba or phone} go to {url or 'the URL of the app'}.")


def _override(url: str) -> Override:
    https_url(url, "--url")
    if len(url) > LONGEST_URL:
        raise ApiError(f"--url has {len(url)} characters, Meta takes {LONGEST_URL} at most: give a shorter one")
    with cli_errors():
        token = load().verify_token
    if token is None:
        raise ApiError("WA_VERIFY_TOKEN is not set: give the one that the receiver has, or WA_VERIFY_TOKEN_FILE")
    aside(f"Meta calls {url} now: the receiver there must be up, with the same WA_VERIFY_TOKEN as this command.")
    return Override(url, secrets(token)[0].decode())


@cloud.command()
@click.argument("waba", metavar="WABA_ID", callback=_id)
@as_json
@click.pass_obj
def show(api: str, waba: str, as_json: bool) -> None:
    """Show the apps that get the notifications of a WABA, and where each gets them.

    With --json: a list of name, id, override_url (null: the app's own URL).
    """
    apps = graph_room.subscribed(_graph(api), waba)
    if as_json:
        print_json([app._asdict() for app in apps])
    elif apps:
        tables.show(("app", "id", "override URL"), apps)
    else:
        click.echo(f"No app gets the notifications of {waba}: see `wa-ingest cloud subscribe`.")
