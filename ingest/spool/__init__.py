"""Durable on disk, while Redis is away."""
