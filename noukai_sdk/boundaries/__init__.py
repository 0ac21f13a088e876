"""Recorded functions: their results and errors in a session, beside the flow calls."""
