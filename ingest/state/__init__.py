"""The pipeline as an operator sees it: backlog, history, controls, dead letters, counters, health."""
