"""The admin listener: health, metrics, the live page."""
