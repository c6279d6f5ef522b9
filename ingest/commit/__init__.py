"""Durable in Redis: group commit, several Redis."""
