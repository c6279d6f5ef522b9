"""Fixtures of the stand-ins for the senders' APIs."""

from tests.workers.setup.apis import (  # noqa: F401
    authority,
    ca_file,
    coreapp,
    graph,
    logged_in,
    no_credentials_of_the_machine,
    wa,
)
