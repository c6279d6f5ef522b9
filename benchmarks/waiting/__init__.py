"""Handlers that wait, as most do: for a model, a CRM, a database."""
