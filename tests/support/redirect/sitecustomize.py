"""Run at the start of every Python process that has this folder in PYTHONPATH."""

import os

if url := os.environ.get("NOUKAI_TEST_DEV_URL"):
    from noukai_sdk.client import BASE_URLS

    BASE_URLS["dev"] = url
