"""The version, once. pyproject.toml states the same; a test compares them."""

__version__ = "0.2.0"
