"""Pydantic models of the wire. No behaviour, no I/O."""
