"""Play a sender, verify every id."""
