"""Processes of the service that are killed, over real processes and a real Postgres."""
