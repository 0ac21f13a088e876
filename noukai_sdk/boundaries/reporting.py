"""Send the calls of recorded functions to the service, once their scope has ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import NoukaiError
from ..protocol.session_extensions import put_boundaries

if TYPE_CHECKING:
    from ..protocol.call import Service
    from ..protocol.program import Program
    from .log import BoundaryLog

logger = logging.getLogger("noukai_sdk")

_warned: set[str] = set()
_REFUSED = (400, 413, 422)


def send_boundaries(service: Service, session_id: str, log: BoundaryLog) -> Program[bool]:
    """Send what ``log`` holds; return False if the service does not take it."""
    extra = {"noukai_session": session_id}
    try:
        is_taken = yield from put_boundaries(service, session_id, log.body())
    except NoukaiError as error:
        if error.status_code not in _REFUSED:
            raise  # the sender tries again
        text = "the service refused the calls of recorded functions in session %s: %s"
        logger.warning(text, session_id, error, extra=extra)
        return True
    if not is_taken and service.base_url not in _warned:
        _warned.add(service.base_url)
        logger.warning(
            "the service at %s does not keep the calls of recorded functions: its sessions replay "
            "without them, so a recorded function is refused there. Cassette files keep them",
            service.base_url,
            extra=extra,
        )
    return is_taken
