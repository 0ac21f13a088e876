"""A job in the service's queue."""

from __future__ import annotations

from .arguments import check_seconds, require_seconds
from .models.results import JobStatus
from .protocol.jobs import JobBackend
from .protocol.program import Program
from .transport.drivers import AsyncTransport, SyncTransport


class _BaseJob:
    """What both kinds of job share."""

    def __init__(self, programs: JobBackend) -> None:
        self._programs = programs

    @property
    def execution_id(self) -> str:
        """The run's id: keep it, and ``flow.job(execution_id)`` finds the job again."""
        return self._programs.execution_id

    @property
    def session_id(self) -> str | None:
        """The session that the job was submitted in, None outside of one."""
        return self._programs.session_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.execution_id!r})"

    def _poll(self, timeout: float | None) -> Program[JobStatus]:
        return self._programs.poll(check_seconds("timeout", timeout))

    def _wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        return self._programs.wait(
            require_seconds("timeout", timeout), require_seconds("poll_interval", poll_interval)
        )


class Job(_BaseJob):
    """A submitted job, on the sync client. Get one from :meth:`Flow.execute_async`.

    Example:
        >>> job = flow.execute_async(message="A long text")                 # doctest: +SKIP
        >>> job.execution_id                                                # doctest: +SKIP
        'exec_abc123'
    """

    def __init__(self, programs: JobBackend, transport: SyncTransport) -> None:
        super().__init__(programs)
        self._transport = transport

    def poll(self, *, timeout: float | None = None) -> JobStatus:
        """Look at the job once.

        Args:
            timeout: Seconds for the request; None takes the client's.

        Returns:
            Its state. Within 5 s of submission an unknown job is reported as pending.

        Raises:
            FlowNotFoundError: No such job.
            NoukaiError: As for ``execute``.

        Example:
            >>> job.poll().status                                           # doctest: +SKIP
            'running'
        """
        return self._transport.run(self._poll(timeout))

    def wait(self, *, timeout: float = 300.0, poll_interval: float = 2.0) -> JobStatus:
        """Poll until the job has completed or failed.

        Args:
            timeout: Seconds to wait at most.
            poll_interval: Seconds between two looks.

        Returns:
            The final state: check ``status`` for ``"failed"``.

        Raises:
            APITimeoutError: The job is not done yet; it goes on.
            NoukaiError: As for ``execute``.

        Example:
            >>> job.wait(timeout=600.0, poll_interval=5.0).result           # doctest: +SKIP
        """
        return self._transport.run(self._wait(timeout, poll_interval))


class AsyncJob(_BaseJob):
    """A submitted job, on the async client: as :class:`Job`, awaited."""

    def __init__(self, programs: JobBackend, transport: AsyncTransport) -> None:
        super().__init__(programs)
        self._transport = transport

    async def poll(self, *, timeout: float | None = None) -> JobStatus:
        """As :meth:`Job.poll`."""
        return await self._transport.run(self._poll(timeout))

    async def wait(  # the timeout is part of the protocol, not a cancel scope
        self,
        *,
        timeout: float = 300.0,
        poll_interval: float = 2.0,
    ) -> JobStatus:
        """As :meth:`Job.wait`."""
        return await self._transport.run(self._wait(timeout, poll_interval))
