"""Log lines, traces, outages."""
