"""Every setting: name, default, meaning. Read from the environment, prefix `WA_`.

Each variable may also be given as `NAME_FILE`, the path of a file that holds the value (how compose and Kubernetes hand
out secrets).
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ingest.errors import SettingsError as SettingsError
from ingest.settings.types import (
    Address,
    Credentials,
    Durability,
    HandlersName,
    HeaderNames,
    HeaderSecrets,
    HttpUrl,
    Lanes,
    LogLevel,
    Names,
    Networks,
    PathSecrets,
    Seconds,
    Secrets,
    Size,
    Tokens,
    UrlPath,
)
from ingest.settings.types import header_secrets as header_secrets
from ingest.settings.types import host_port as host_port
from ingest.settings.types import secrets as secrets
from ingest.store import local
from ingest.store.urls import of_this_process, split

PREFIX = "WA_"

_NEEDS = (
    ("tls_cert", "tls_key", "needs its private key"),
    ("tls_key", "tls_cert", "needs its certificate"),
    ("tls_client_ca", "tls_cert", "works only where TLS ends here"),
    ("tls_client_name", "tls_client_ca", "is checked only in certificates that a CA vouches for"),
)


GUARDS = {
    "app_secret": "a signature",
    "basic_auth": "Basic auth",
    "header_secret": "a header",
    "path_secret": "a secret path",
    "allow_networks": "networks",
    "tls_client_ca": "client certificates",
}
"""Settings that decide who may post, and what each requires."""

SET_A_GUARD = (
    "set WA_APP_SECRET (Cloud API, Turn.io, 360dialog); else WA_PATH_SECRET, WA_HEADER_SECRET, WA_BASIC_AUTH, "
    "WA_ALLOW_NETWORKS or WA_TLS_CLIENT_CA"
)


_TO_ANOTHER_PORT = {errno.EADDRINUSE: 1, errno.EACCES: 8000}  # root alone may listen below 1024: for 80, 8080
"""Where another port may help, how far the one of the example is from the one that is not to be had."""

DEFAULT_HANDLERS = "workers.printing:handlers"

_OWN_HANDLERS = "bot:handlers"  # what `wa-ingest new` makes


def _default_handlers() -> str:
    return _OWN_HANDLERS if Path("bot.py").is_file() else DEFAULT_HANDLERS


class Settings(BaseSettings):
    """All settings; `wa-ingest settings` prints them with these descriptions."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, or several of these, comma "
        "separated; unset: `up` starts its own server, and commands in its folder use that",
    )
    handlers: HandlersName = Field(
        default_factory=_default_handlers,
        description="your handlers, as module:object or path/to/file.py:object; the working folder is importable; "
        "unset: `bot:handlers` where there is a bot.py, else they print what arrives",
    )
    destinations: Path | None = Field(
        None,
        description="TOML file of HTTP destinations that events are posted to, beside your handlers or instead of them",
    )
    listen: Address = Field(("0.0.0.0", 8080), description="address of the public listener")  # noqa: S104
    admin_listen: Address = Field(
        ("127.0.0.1", 9100), description="address of the page, /healthz, /readyz and /metrics"
    )
    admin_hosts: Names = Field(
        (),
        description="names by which that listener may be called, comma separated, besides IP addresses, localhost, "
        "this machine's name and the one in WA_ADMIN_LISTEN",
    )
    worker_metrics_listen: Address | None = Field(
        None, description="address at which `work` and `up` serve your handlers' own Prometheus metrics; unset: nowhere"
    )
    admin_token: Tokens | None = Field(
        None,
        description="token(s), comma separated, for the page's actions and `wa-ingest tail` of a receiver; unset: none",
    )
    alert_url: HttpUrl | None = Field(
        None,
        description="where receivers post what the page finds wrong, when it begins and when it ends, as Slack takes "
        "it: JSON with a `text`; unset: nowhere",
    )
    path: UrlPath = Field("/webhook", description="path that senders post to")
    app_secret: Secrets | None = Field(
        None, description="app secret(s), comma separated; when set, every POST must carry a valid signature"
    )
    verify_token: Secrets | None = Field(
        None, description="token(s), comma separated, of which the GET handshake must carry one; unset: it is refused"
    )
    basic_auth: Credentials | None = Field(
        None, description="USER:PASSWORD, comma separated; when set, every POST must carry one (Basic auth)"
    )
    header_secret: HeaderSecrets | None = Field(
        None, description="NAME:VALUE, comma separated; when set, every POST must carry one of these headers"
    )
    path_secret: PathSecrets | None = Field(
        None, description="secret last segment(s) of the path, comma separated: senders post to WA_PATH/SECRET"
    )
    allow_networks: Networks = Field(
        (), description="networks that may use the public listener, comma separated; unset: all"
    )
    trusted_proxies: Networks = Field(
        (), description="networks of proxies whose X-Forwarded-For is believed, comma separated"
    )
    tls_cert: Path | None = Field(
        None, description="PEM file of the public listener's certificate and its chain; read again when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of CA(s); when set, every sender must present a client certificate from one"
    )
    tls_client_name: str | None = Field(
        None, description="name that client certificates must carry, as common name or DNS name"
    )
    spool_dir: Path | None = Field(
        None, description="folder of the disk spool; unset: 503 while Redis is away (`up`: ./data/spool)"
    )
    durability: Durability = Field(
        "redis",
        description="what a 200 waits for: redis: Redis has it; fsync: its disk too (WAITAOF 1 0); replicas:N: "
        "N replicas too",
    )
    max_body: Size = Field(ByteSize(4 << 20), description="largest body accepted; above: 413")
    max_pending: Size = Field(
        ByteSize(64 << 20),
        description="bytes of bodies that a receiver process holds until they are durable; above: 503",
    )
    max_connections: int = Field(
        1000, ge=1, le=65_536, description="connections to a receiver process; above, it ends those idle for longest"
    )
    body_timeout: Seconds = Field(10.0, description="time for a body to arrive completely; then: 408")
    keepalive: Seconds = Field(
        620.0,
        description="how long an idle connection of a sender stays open; longer than a balancer in front keeps it "
        "(Google's: 600 s)",
    )
    lanes: Lanes = Field(("messages", "statuses", "other"), description="lanes that a `work` process takes from")
    processes: int = Field(1, ge=1, le=1024, description="receiver processes (serve) or worker processes (work, up)")
    partitions: int = Field(32, ge=1, le=255, description="partitions of the messages lane")
    business_partitions: int | None = Field(
        None, ge=1, le=255, description="how many of them messages to one business number may use; unset: all"
    )
    keep_headers: HeaderNames = Field(
        (),
        description="names of request headers to keep with a notification, comma separated: handlers read "
        "`event.headers`; unset: none",
    )
    dedup_window: Seconds = Field(
        25 * 3600.0, le=7 * 86400.0, description="how long copies of an event are recognised and dropped"
    )
    status_order: Literal["flag", "drop"] = Field(
        "flag", description="flag or drop a status that comes after a later stage of its message"
    )
    max_rss: Size | None = Field(
        None, description="memory of a worker process; above, it is replaced after its batch; unset: no limit"
    )
    batch: int = Field(500, ge=1, le=10_000, description="notifications in a batch at most")
    max_attempts: int = Field(8, ge=1, le=127, description="tries of an event before it becomes a dead letter")
    max_age: Seconds = Field(
        7 * 86400.0,
        description="an event that would be older, by its arrival, is not tried again, however often it was snoozed",
    )
    dead_age: Seconds = Field(14 * 86400.0, description="how long a dead letter is kept")
    archive_dir: Path | None = Field(
        None, description="folder where workers keep every notification they settle; unset: no archive"
    )
    archive_age: Seconds = Field(30 * 86400.0, description="how long the archive's files are kept")
    handler_timeout: Seconds = Field(30.0, description="time for one call of a handler")
    concurrency: int = Field(100, ge=1, le=10_000, description="async handlers in flight in a worker process")
    threads: int = Field(8, ge=1, le=1000, description="threads in which a worker process calls plain functions")
    stop_seconds: Seconds | None = Field(
        None,
        description="how long what has begun may take when a worker stops; unset: WA_HANDLER_TIMEOUT, at most 25s",
    )
    loop: Literal["uvloop", "asyncio"] = Field(
        "uvloop",
        description="event loop of the receiver and of async handlers; asyncio: Python's own, which nest_asyncio needs",
    )
    log_level: LogLevel = Field(
        "info",
        description="level of what is logged: debug, info, warning or error; your code's too, unless it configures "
        "logging",
    )
    log_errors: Literal["place", "full"] = Field(
        "place", description="what is logged of a handler's exception: type and place, or with text and traceback"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        for field, needed, why in _NEEDS:
            if getattr(self, field) and not getattr(self, needed):
                raise SettingsError(f"{variable(field)} {why}: set {variable(needed)}")
        if self.max_pending < self.max_body:
            raise SettingsError("WA_MAX_PENDING is less than WA_MAX_BODY: no room for one body of that size")
        return self

    @property
    def guards(self) -> list[str]:
        """What senders are asked for; empty: anybody who reaches the port may post."""
        return [name for field, name in GUARDS.items() if getattr(self, field)]

    @property
    def stops_within(self) -> float:
        """Seconds that a worker gives to what has begun when it is told to stop."""
        return min(self.handler_timeout, 25.0) if self.stop_seconds is None else self.stop_seconds

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileVariables(settings_cls)


NOT_SET = "# not set"
"""What a file of `NAME_FILE` holds where there must be a file, and its setting is not to be set."""


class _FileVariables(PydanticBaseSettingsSource):
    """`NAME_FILE`: the value of NAME is what that file holds, without white space around it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = variable(field_name) + "_FILE"
        path = os.environ.get(name)
        if not path:
            return None, field_name, False
        try:
            value = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"{name}: cannot read {path}: {reason}") from None
        if not value:  # a guard whose secret got lost must not open the door
            raise SettingsError(
                f"{name}: {path} is empty; write the value into it, or `{NOT_SET}`, or unset the variable"
            )
        return None if value == NOT_SET else value, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in Settings.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def variable(field: str) -> str:
    """The environment variable of a settings field."""
    return PREFIX + field.upper()


def cannot_listen(field: str, address: tuple[str, int], error: OSError) -> SettingsError:
    """The error for an address that is not to be had, with an example of one that may be; `field` is its setting."""
    no_such_name = isinstance(error, socket.gaierror)  # whose numbers are others
    why = os.strerror(error.errno) if error.errno and not no_such_name else error.strerror or str(error)
    host, port = address
    step = None if no_such_name else _TO_ANOTHER_PORT.get(error.errno or 0)
    remedy = f"; take another port, as {variable(field)}={host_port(host, port + step)} does" if step else ""
    return SettingsError(f"{variable(field)}: cannot listen on {host_port(host, port)}: {why}{remedy}")


def load(**overrides: Any) -> Settings:
    """The settings in force. `overrides` are what the command line gave; None there means not given.

    Raises SettingsError with one line that names the variable.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise SettingsError(f"{variable(field)}: {_in_words(field, first)}") from None


def _in_words(field: str, error: ErrorDetails) -> str:
    """What is wrong with a value. It stands beside pydantic's words; ours name it where that helps."""
    text = error["msg"].removeprefix("Value error, ")
    value, annotation = error["input"], Settings.model_fields[field].annotation
    if error["type"] == "value_error" or not isinstance(value, str) or "Secret" in str(annotation):
        return text
    ours = {"int_parsing": "it must be a whole number", "byte_size": "give a size such as 64MiB or 1000000"}
    wanted = ours.get(error["type"], text.replace("Input should", "it must"))
    return f"{wanted}, not {value!r}"


def unknown_variables() -> list[str]:
    """Variables with our prefix that are no setting: misspelt, or of another version."""
    known = {variable(field) for field in Settings.model_fields}
    return sorted(n for n in os.environ if n.startswith(PREFIX) and n.removesuffix("_FILE") not in known)


def redis_url(settings: Settings) -> str:
    """The Redis URL or URLs, for every command but `up`; when it is not set, that of the `up` that runs in this folder.

    Raises SettingsError when there is none.
    """
    if settings.redis_url is not None:
        return of_this_process(settings.redis_url.get_secret_value())
    if beside := local.running():
        return beside
    raise SettingsError(
        "WA_REDIS_URL is not set: no `wa-ingest up` runs in this folder, whose server would be used; "
        "run one here, or give the Redis to use, for example redis://localhost:6379/0"
    )


def each_redis(settings: Settings) -> list[Settings]:
    """For each Redis that WA_REDIS_URL names, the settings with that one alone. Raises SettingsError."""
    return [settings.model_copy(update={"redis_url": SecretStr(url)}) for url in split(redis_url(settings))]
