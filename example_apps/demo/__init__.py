"""Capture and replay on two real apps: ``python -m example_apps.demo``."""
