"""Convert outputs to JSON values."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python
from pydantic_core import to_json as core_to_json

from ...errors import FlowExecutionError
from ..runtime.error_text import error_text

_LONG_NUMBER = re.compile(rb"\d{4301}")


def to_json(value: Any) -> Any:
    """Convert an output to JSON values, for outputs that leave the process.

    Every parser can read the result: NaN is null, half of a surrogate pair is ``?``, a key is a text.

    Raises:
        FlowExecutionError: The output cannot be converted; code ``OUTPUT_INVALID``.
    """
    if value is None or type(value) is bool:
        return value
    try:
        plain = to_jsonable_python(value, inf_nan_mode="null")
        try:
            data = core_to_json(plain, inf_nan_mode="null")
        except (PydanticSerializationError, UnicodeError):
            data = json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")
        try:
            # Python's parser refuses such numbers, ours does not.
            return json.loads(data) if _LONG_NUMBER.search(data) else from_json(data)
        except ValueError:
            return json.loads(data)  # nested deeper than the fast parser accepts
    # The value may be of any class, whose methods may raise anything.
    except (Exception, SystemExit) as error:
        message = f"the output cannot be written as JSON: {error_text(error)}"
        raise FlowExecutionError(message, code="OUTPUT_INVALID") from error
