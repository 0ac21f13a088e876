"""Send the calls of recorded functions to the service, once their scope has ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..protocol.session_extensions import put_boundaries

if TYPE_CHECKING:
    from ..protocol.call import Service
    from ..protocol.program import Program
    from .log import BoundaryLog

logger = logging.getLogger("noukai_sdk")

_warned: set[str] = set()


def send_boundaries(service: Service, session_id: str, log: BoundaryLog) -> Program[bool]:
    """Send what ``log`` holds; return False if the service does not take it."""
    is_taken = yield from put_boundaries(service, session_id, log.body())
    if not is_taken and service.base_url not in _warned:
        _warned.add(service.base_url)
        logger.warning(
            "the service at %s does not keep the calls of recorded functions: its sessions replay "
            "without them, so a recorded function is refused there. Cassette files keep them",
            service.base_url,
            extra={"noukai_session": session_id},
        )
    return is_taken
