"""Fixtures of the stand-ins for the senders' APIs."""

from tests.ingest.conftest import own_valkey  # noqa: F401
from tests.workers.setup.apis import authority, ca_file, coreapp, logged_in, no_credentials_of_the_machine, wa  # noqa: F401
