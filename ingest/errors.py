"""What is wrong with the configuration."""

from __future__ import annotations


class SettingsError(Exception):
    """A setting is missing or wrong. The message is one line that names the variable and the remedy."""
