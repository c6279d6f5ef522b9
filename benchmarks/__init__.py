"""Measurements of this project and of its peers, run from the root of the repository."""
