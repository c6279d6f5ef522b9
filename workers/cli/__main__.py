"""`python -m workers.cli` is `wa-ingest`."""

from workers.cli.main import main

main()
