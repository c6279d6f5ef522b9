"""The commands of `wa-ingest`, and what they print with."""
