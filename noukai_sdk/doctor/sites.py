"""Find the line of the user's code on whose behalf a source is read."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from functools import lru_cache
from types import FrameType
from typing import Literal, NamedTuple

Owner = Literal["user", "noukai", "doctor", "standard library", "library"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # per frame
_DOCTOR = os.path.join(_PACKAGE, "doctor")  # noqa: PTH118  # compared with names of frames, which are texts
_STANDARD = tuple(
    os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")
)
_INSTALLED = tuple(
    os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("purelib", "platlib")
)
_INSTALLED_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# It stands between the clock and its reader.
_OF_DOCTOR = f"{os.sep}time_machine{os.sep}"
_DEEPEST = 80


class Site(NamedTuple):
    """A line of code that reads a source.

    Attributes:
        file, line: Where it is.
        direct: The line itself reads the source, not a library that it calls.
        owner: Whose code it is: ``"library"`` if no code of the user is on the stack.
    """

    file: str
    line: int
    direct: bool = True
    owner: Owner = "user"


@lru_cache(maxsize=4096)
def owner_of(file: str) -> Owner:
    """Return whose code is in a file."""
    if file.startswith("<"):
        return "standard library"  # generated, such as the __init__ of a dataclass
    path = os.path.realpath(file)
    if _OF_DOCTOR in path or path.startswith(_DOCTOR):
        return "doctor"
    if path.startswith(_PACKAGE + os.sep):
        return "noukai"
    if path.startswith(_INSTALLED) or any(part in path for part in _INSTALLED_PARTS):
        return "library"
    return "standard library" if path.startswith(_STANDARD) else "user"


def reading_site() -> Site | None:
    """Return the line that reads a source now; None if this package reads it for itself."""
    frame: FrameType | None = sys._getframe(1)
    direct = True
    library: FrameType | None = None
    for _ in range(_DEEPEST):
        if frame is None:
            break
        owner = owner_of(frame.f_code.co_filename)
        if owner == "user":
            return Site(frame.f_code.co_filename, frame.f_lineno, direct)
        if owner == "noukai":
            break
        if owner == "library" and library is None:
            library = frame
        if owner != "doctor":
            direct = False
        frame = frame.f_back
    if library is None:
        if frame is not None or threading.current_thread() is threading.main_thread():
            return None
        # A thread of a pool runs the source itself: to_thread(uuid.uuid4).
        library = sys._getframe(1)
    # A framework reads it, before it calls the user's code: a default_factory, for example.
    return Site(library.f_code.co_filename, library.f_lineno, False, "library")
