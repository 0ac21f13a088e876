"""The names of recorded functions in recordings."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest

from noukai_sdk import recorded
from noukai_sdk.boundaries.functions import RecordedFunction

MODULE = """
from noukai_sdk import recorded

@recorded{options}
def load_namesake(number: int) -> int:
    return number
"""


def define(module: str, file: str, options: str = "") -> None:
    namespace: dict[str, Any] = {"__name__": module}
    exec(compile(MODULE.format(options=options), file, "exec"), namespace)


def test_functions_of_two_files_with_one_name_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        define("users.service", "users/service.py")
        define("users.service", "users/service.py")  # reloaded
        define("service", "users/service.py")  # imported by another name
        define("orders.service", "orders/service.py", '(name="orders.load")')
        for cell in ("ipykernel/1.py", "ipykernel/2.py"):
            define("__main__", cell)
        assert caplog.messages == []
        define("orders.service", "orders/service.py")
    (message,) = caplog.messages
    assert "'service.load_namesake', in users/service.py and orders/service.py" in message


def test_partial_has_the_name_of_its_function() -> None:
    def load(number: int) -> int:
        return number

    function = RecordedFunction("plain", functools.partial(load, 1))
    assert function.name == "test_function_names.load"
    assert recorded(functools.partial(load, 1))() == 1
