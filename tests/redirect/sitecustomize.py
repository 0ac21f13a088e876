"""Run by every Python process with this folder in PYTHONPATH: see `redirect_dev` in conftest.py."""

import os

if url := os.environ.get("NOUKAI_TEST_DEV_URL"):
    from noukai_sdk.client import BASE_URLS

    BASE_URLS["dev"] = url
