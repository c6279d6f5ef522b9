"""Durable in Redis: group commit, one Redis or several."""
