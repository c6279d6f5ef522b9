"""`wa-ingest coreapp`: the commands that set the On-Premises client up."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson

from ingest import trust
from ingest.telemetry.printable import printable
from ingest.terminal import aside
from workers.cli import tables
from workers.cli.terminal import as_json, print_json
from workers.setup import certificates, token_file
from workers.setup import coreapp as calls
from workers.setup import coreapp_settings as known
from workers.setup.api import ApiError, Server, https_url
from workers.setup.coreapp import PASSWORD, Coreapp
from workers.setup.credentials import from_environment, from_file

_RESTART = "Restart the Coreapp now: until then it goes on as before."


class _Reach(NamedTuple):
    """The group's options. They are checked only when a command needs them, so that `--help` needs none."""

    api: str | None
    ca_file: Path | None
    insecure: bool
    token_file: Path

    def coreapp(self) -> Coreapp:
        if self.api is None:
            raise ApiError("which Coreapp? Give --api or COREAPP_API, for example https://coreapp:9090")
        server = Server(https_url(self.api, "--api"), "--api", self._tls(), "name its CA with --ca-file")
        return Coreapp(server, self.token_file.expanduser())

    def _tls(self) -> ssl.SSLContext:
        try:
            context = trust.context(ca_file=self.ca_file)
        except (ssl.SSLError, OSError):
            raise ApiError(f"--ca-file: {self.ca_file} holds no PEM certificate that can be read") from None
        if self.insecure:
            aside("Warning: --insecure: whoever answers at this address gets the password or token")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@click.group("coreapp")
@click.option("--api", metavar="URL", envvar="COREAPP_API", help="Its API, such as https://coreapp:9090 [COREAPP_API].")
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file with the certificates to trust for the API, instead of this machine's.",
)
@click.option("--insecure", is_flag=True, help="Do not check the API's certificate. For tests only.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=token_file.DEFAULT,
    show_default=True,
    help="Where `login` keeps the token, readable by you alone.",
)
@click.pass_context
def coreapp(ctx: click.Context, api: str | None, ca_file: Path | None, insecure: bool, token_file: Path) -> None:
    """Set the On-Premises client (the Coreapp) up: where its callbacks go, which, how many, what it trusts.

    \b
    To let it call a receiver:
        export COREAPP_API=https://coreapp:9090
        wa-ingest coreapp login --user admin
        wa-ingest coreapp settings apply --url https://example.com/webhook
        wa-ingest coreapp settings apply --sent --delivered --read
        wa-ingest coreapp ca upload our-ca.pem   # if a private CA signed for it

    An admin's account is needed. The token of `login` is valid for some days. When it has expired and COREAPP_PASSWORD
    (or COREAPP_PASSWORD_FILE, the path of a file that holds it) is set, a command fetches a new one by itself.
    """
    ctx.obj = _Reach(api, ca_file, insecure, token_file)


@coreapp.command()
@click.option("--user", required=True, metavar="NAME", help="The account, usually admin.")
@click.option("--first", is_flag=True, help="First login of an admin: a new password must be set, it is asked for.")
@click.option(
    "--new-password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Set the password in this file. Also COREAPP_NEW_PASSWORD, COREAPP_NEW_PASSWORD_FILE.",
)
@click.pass_obj
def login(reach: _Reach, user: str, first: bool, new_password_file: Path | None) -> None:
    """Get a token and keep it in the token file; the password is kept nowhere.

    The password comes from COREAPP_PASSWORD, from the file that COREAPP_PASSWORD_FILE names, or is asked for. The first
    login of an admin must set a new one, with --first or --new-password-file.
    """
    client = reach.coreapp()
    if ":" in user or not user.isprintable():
        raise click.BadParameter("a user name holds no colon and no control character", param_hint="--user")
    password = from_environment(PASSWORD) or _ask("Password", PASSWORD)
    new = _new_password(first, new_password_file)
    made = calls.login(client, user, password, new)
    until = printable(made.expires_after)
    click.echo(f"Logged in to {client.server.url} as {user}. The token in {client.token_file} is valid until {until}.")
    if new:
        click.echo("The new password is set; from now on give that one.")


def _new_password(first: bool, file: Path | None) -> str | None:
    if file is not None:
        return from_file(file, "--new-password-file")
    name = "COREAPP_NEW_PASSWORD"
    return from_environment(name) or (_ask("New password", name, confirm=True) if first else None)


def _ask(prompt: str, variable: str, confirm: bool = False) -> str:
    """A password from the terminal, which does not show it."""
    if not sys.stdin.isatty():
        raise ApiError(f"no password: set {variable} or {variable}_FILE, or run this on a terminal")
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


@coreapp.group("settings")
def settings_group() -> None:
    """Look at the client's settings, and change those of its callbacks."""


@settings_group.command("show")
@as_json
@click.pass_obj
def show_settings(reach: _Reach, as_json: bool) -> None:
    """Show all application settings. With --json: an object of dotted names."""
    found = known.showable(known.flattened(calls.settings(reach.coreapp())))
    if as_json:
        print_json(found)
    else:
        tables.show(("setting", "value"), found.items())


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(known.OPTIONS):
        command = click.option(option.flags, option.parameter, type=option.type, default=None, help=option.help)(
            command
        )
    return command


@settings_group.command("apply")
@_options
@click.option("--dry-run", is_flag=True, help="Show what would be sent; change nothing.")
@as_json
@click.pass_obj
def apply_settings(reach: _Reach, /, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Change the settings that are named, and only these; show all before and after.

    It reads them back, and fails when the client does not show what was sent. With --json: an object of sent,
    before, after, changed (names), restart (is one needed?).
    """
    wanted = {o.setting: values[o.parameter] for o in known.OPTIONS if values[o.parameter] is not None}
    if not wanted:
        raise click.UsageError("name at least one setting, such as --url")
    client = reach.coreapp()
    before = known.flattened(calls.settings(client))
    if dry_run:
        after = before | wanted
    else:
        calls.change_settings(client, known.nested(wanted))
        after = known.flattened(calls.settings(client))
    _report(wanted, before, after, dry_run, as_json)
    if differing := known.differing(wanted, after, wanted):
        raise ApiError(
            f"the client took the change and does not show it: {', '.join(differing)}; see its log, and its version"
        )


def _report(
    wanted: dict[str, Any], before: dict[str, Any], after: dict[str, Any], dry_run: bool, as_json: bool
) -> None:
    names = sorted(before.keys() | after.keys())
    changed = known.differing(before, after, names)
    restart = not known.NEED_RESTART.isdisjoint(changed)
    sent, before, after = known.nested(wanted), known.showable(before), known.showable(after)
    if as_json:
        print_json({"sent": sent, "before": before, "after": after, "changed": changed, "restart": restart})
        return
    if dry_run:
        click.echo(f"Nothing is changed. This would be sent: {orjson.dumps(sent).decode()}\n")
    rows = [("*" if name in changed else "", name, before.get(name), after.get(name)) for name in names]
    tables.show(("", "setting", "before", "after"), rows)
    if restart:
        click.echo("\nIt would need a restart of the Coreapp." if dry_run else f"\n{_RESTART}")


@coreapp.group()
def ca() -> None:
    """The certificates that the client trusts when it calls the webhook, besides the public CAs.

    Needed when the receiver's certificate is self-signed or of a private CA.
    """


@ca.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def upload(reach: _Reach, file: Path) -> None:
    """Let the client trust the certificates of FILE: PEM, one or several. A file with a private key is refused.

    The client uses them from its next start on.
    """
    found = certificates.read(file)
    calls.upload_ca(reach.coreapp(), "".join(one.pem for one in found).encode())
    for one in found:
        click.echo(f"Uploaded {printable(one.subject)}, valid until {one.until}")
    click.echo(_RESTART)


@ca.command("show")
@as_json
@click.pass_obj
def show_ca(reach: _Reach, as_json: bool) -> None:
    """Show the certificates that were uploaded. With --json: a list, with the PEM texts."""
    client = reach.coreapp()
    found = certificates.parse(calls.ca(client), client.server.url)
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        tables.show(certificates.Certificate._fields[:-1], [one[:-1] for one in found])


@ca.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(reach: _Reach, yes: bool) -> None:
    """Remove the certificates that were uploaded. Asks first."""
    client = reach.coreapp()
    if not yes:
        click.confirm(f"Remove the webhook's CA from {client.server.url}?", abort=True, err=True)
    calls.delete_ca(client)
    click.echo(f"Removed. {_RESTART}")


@coreapp.command()
@as_json
@click.pass_obj
def health(reach: _Reach, as_json: bool) -> None:
    """Is every node of the client connected to WhatsApp? Exits 1 when one is not.

    gateway_status is connected, connecting, disconnected, uninitialized or unregistered. With --json: a list of name,
    gateway_status, role.
    """
    nodes = calls.health(reach.coreapp())
    if as_json:
        print_json([node._asdict() for node in nodes])
    else:
        tables.show(("node", "gateway_status", "role"), [(node.name or None, *node[1:]) for node in nodes])
    away = [f"{node.name} {node.gateway_status}".strip() for node in nodes if not node.connected]
    if away or not nodes:
        raise ApiError(f"not connected: {', '.join(away) or 'no node'}; see the Coreapp's log and its registration")
