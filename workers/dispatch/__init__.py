"""Calling handlers: slots, order, time limits, rate limits."""
