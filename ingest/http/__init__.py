"""A request, from its connection to its answer."""
