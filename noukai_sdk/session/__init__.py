"""The scope that a request's calls share, and ``@trace``."""
