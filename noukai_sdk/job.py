"""A job in the service's queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from .arguments import check_timeout, require_seconds
from .models.results import JobStatus, OutputT
from .protocol.jobs import JobBackend
from .protocol.program import Program
from .transport.drivers import AsyncTransport, SyncTransport

if TYPE_CHECKING:
    from .arguments import TimeoutInput
    from .protocol.outputs import Parse

WAIT = 300.0  # seconds that ``wait`` waits by default


class _BaseJob(Generic[OutputT]):
    """Checks the arguments of both kinds of job, and makes their programs."""

    def __init__(self, backend: JobBackend, parse: Parse | None) -> None:
        self._backend = backend
        self._parse = parse

    @property
    def execution_id(self) -> str:
        """The id of the run. ``flow.job(execution_id)`` returns the job again."""
        return self._backend.execution_id

    @property
    def flow_id(self) -> str | None:
        """The id of the flow, as the service returned it. None for a job known by its id alone."""
        return self._backend.flow_id

    @property
    def session_id(self) -> str | None:
        """The session that the job was submitted in, None outside of one."""
        return self._backend.session_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.execution_id!r})"

    def _poll(self, timeout: TimeoutInput) -> Program[JobStatus[OutputT]]:
        return self._typed(self._backend.poll(check_timeout("timeout", timeout)))

    def _cancel(self, timeout: TimeoutInput) -> Program[JobStatus[OutputT]]:
        return self._typed(self._backend.cancel(check_timeout("timeout", timeout)))

    def _wait(self, timeout: float | None, poll_interval: float) -> Program[JobStatus[OutputT]]:
        program = self._backend.wait(
            require_seconds("timeout", WAIT if timeout is None else timeout),
            require_seconds("poll_interval", poll_interval),
        )
        return self._typed(program)

    def _typed(self, program: Program[JobStatus]) -> Program[JobStatus[OutputT]]:
        if self._parse is None:
            return program
        from .protocol.outputs import with_output

        return with_output(program, self._parse)


class Job(_BaseJob[OutputT]):
    """Poll a submitted job with the sync client. Get one from :meth:`Flow.execute_async`.

    Example:
        >>> job = flow.execute_async(message="A long text")                 # doctest: +SKIP
        >>> job.execution_id                                                # doctest: +SKIP
        'exec_abc123'
    """

    def __init__(
        self, backend: JobBackend, transport: SyncTransport, parse: Parse | None = None
    ) -> None:
        super().__init__(backend, parse)
        self._transport = transport

    def poll(self, *, timeout: TimeoutInput = None) -> JobStatus[OutputT]:
        """Look at the job once.

        Args:
            timeout: Seconds for the request; None means the client's timeout.

        Returns:
            The job's state. For 5 s after submission an unknown job is reported as pending.

        Raises:
            RunNotFoundError: No such job.
            NoukaiError: As for ``execute``.

        Example:
            >>> job.poll().status                                           # doctest: +SKIP
            'running'
        """
        return self._transport.run(self._poll(timeout))

    def wait(
        self, *, timeout: float | None = WAIT, poll_interval: float = 2.0
    ) -> JobStatus[OutputT]:
        """Poll until the job has completed or failed.

        Args:
            timeout: Seconds to wait at most; None means the default.
            poll_interval: Seconds between two polls.

        Returns:
            The final state: check ``status`` for ``"failed"``.

        Raises:
            JobCancelledError: The job was cancelled.
            APITimeoutError: The job is not done after ``timeout``; it keeps running.
            NoukaiError: As for ``execute``.

        Example:
            >>> job.wait(timeout=600.0, poll_interval=5.0).result           # doctest: +SKIP
        """
        return self._transport.run(self._wait(timeout, poll_interval))

    def cancel(self, *, timeout: TimeoutInput = None) -> JobStatus[OutputT]:
        """Cancel the job: a step in progress is stopped, and no further step begins.

        Cancelling a job that has ended changes nothing. In a replay nothing is sent: the next recorded
        state is returned, as for ``poll``.

        Args:
            timeout: Seconds for the request; None means the client's timeout.

        Returns:
            The job's state: ``is_cancelled`` is False if the job had ended before.

        Raises:
            RunNotFoundError: No such job.
            FlowExecutionError: The service cannot cancel jobs; code ``CANCEL_NOT_SUPPORTED``.
            NoukaiError: As for ``execute``.

        Example:
            >>> job.cancel().is_cancelled                                   # doctest: +SKIP
            True
        """
        return self._transport.run(self._cancel(timeout))


class AsyncJob(_BaseJob[OutputT]):
    """Poll a submitted job with the async client. The methods are those of :class:`Job`."""

    def __init__(
        self, backend: JobBackend, transport: AsyncTransport, parse: Parse | None = None
    ) -> None:
        super().__init__(backend, parse)
        self._transport = transport

    async def poll(self, *, timeout: TimeoutInput = None) -> JobStatus[OutputT]:
        """Look at the job once. See :meth:`Job.poll`."""
        return await self._transport.run(self._poll(timeout))

    async def wait(  # the timeout is part of the protocol, not a cancel scope
        self,
        *,
        timeout: float | None = WAIT,
        poll_interval: float = 2.0,
    ) -> JobStatus[OutputT]:
        """Poll until the job has completed or failed. See :meth:`Job.wait`."""
        return await self._transport.run(self._wait(timeout, poll_interval))

    async def cancel(self, *, timeout: TimeoutInput = None) -> JobStatus[OutputT]:
        """Cancel the job. See :meth:`Job.cancel`."""
        return await self._transport.run(self._cancel(timeout))
