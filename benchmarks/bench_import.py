"""What ``from noukai_sdk import Noukai`` costs, beside the two libraries that it stands on."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.measure import Row, alternating

ROUNDS = 15
LIBRARIES = "import httpx, pydantic"
NOTHING = "pass"
IMPORT = "from noukai_sdk import Noukai"
FIRST_CLIENT = f"{IMPORT}; Noukai(api_key='nk_bench')"
FIRST_BARE_CLIENT = f"{LIBRARIES}; pydantic.BaseModel; httpx.Client()"


def run() -> list[Row]:
    """Milliseconds of a whole interpreter, the bare one taken off; a client's making is only shown:
    importing puts the libraries off to it.
    """
    medians = alternating({code: partial(start, code) for code in CODES}, ROUNDS)
    cost = {code: (medians[code] - medians[NOTHING]) * 1e3 for code in CODES}
    ours, theirs = cost[FIRST_CLIENT], cost[FIRST_BARE_CLIENT]
    return [
        Row(LIBRARIES, cost[LIBRARIES], None, "ms"),
        Row(IMPORT, cost[IMPORT], None, "ms"),
        Row(f"our import / {LIBRARIES}", cost[IMPORT] / cost[LIBRARIES], 1.25, "times"),
        Row("our import and first client / httpx's, and pydantic", ours / theirs, None, "times"),
    ]


CODES = (NOTHING, LIBRARIES, IMPORT, FIRST_CLIENT, FIRST_BARE_CLIENT)


def start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
