"""The scope that the calls of a request share, and ``@trace``."""
