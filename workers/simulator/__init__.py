"""Plays a sender and verifies every id."""
