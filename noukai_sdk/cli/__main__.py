"""Run ``python -m noukai_sdk.cli``, for environments without ``noukai`` on the path."""

from . import main

main()
