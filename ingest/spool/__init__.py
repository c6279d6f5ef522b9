"""Makes notifications durable on disk while Redis is away."""
