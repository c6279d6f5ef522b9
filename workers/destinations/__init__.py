"""Destinations: HTTP endpoints that get events, in any language. A destination is a handler that posts."""
