"""Prints what arrives, as the package does by default. Copy workers/printing.py and put your own code in."""

from workers.printing import handlers as handlers
