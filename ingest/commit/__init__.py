"""Makes notifications durable in Redis: group commit, one Redis or several."""
