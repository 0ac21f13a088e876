"""``python -m noukai_sdk.cli``, for where no ``noukai`` is on the path."""

from . import main

main()
