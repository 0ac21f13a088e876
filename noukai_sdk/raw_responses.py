"""Calls that return the response as it came, with its headers, beside the result."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .job import AsyncJob, Job
from .models.results import OutputT
from .options import ExecuteOptions, JobOptions, JSONObject, Unpack
from .protocol.program import PausedRun, Program, Response

if TYPE_CHECKING:
    from .flow import AsyncFlow, Flow
    from .models.results import ExecuteResult, PausedResult

    Turns = Sequence[JSONObject]
    Model = type[OutputT] | None

ParsedT = TypeVar("ParsedT")


class RawResponse(Generic[ParsedT]):
    """The last response of a call.

    Attributes:
        parsed: What the method returns without ``with_raw_response``.
        status_code: The HTTP status; None in a replay, which has no response.
        headers: The headers, by name in any letter case; empty in a replay.
    """

    def __init__(self, parsed: ParsedT, response: Response | None) -> None:
        self.parsed = parsed
        self.status_code = None if response is None else response.status
        self.headers: Mapping[str, str] = {} if response is None else response.headers

    @property
    def request_id(self) -> str | None:
        """The response's ``X-Request-ID``, to quote to support."""
        return self.headers.get("x-request-id") or getattr(self.parsed, "request_id", None)

    def __repr__(self) -> str:
        return f"RawResponse({self.status_code}, {self.parsed!r})"


def with_response(program: Program[Any], transport: Any) -> Program[RawResponse[Any]]:
    """Run ``program``, and return its result with the last response that it received."""
    response = None
    try:
        item = next(program)
        while True:
            try:
                outcome = yield item
            except Exception as error:  # noqa: BLE001, PERF203 - thrown in for the program, not for us
                item = program.throw(error)
            else:
                response = outcome if isinstance(outcome, Response) else response
                item = program.send(outcome)
    except StopIteration as end:
        value = end.value
    finally:
        program.close()
    # The driver binds only a pause that is itself the result.
    paused = isinstance(value, PausedRun)
    return RawResponse(value.bound_to(transport) if paused else value, response)


class RawFlow:
    """The methods of :class:`~noukai_sdk.Flow` that return a :class:`RawResponse`."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    @overload
    def execute(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> RawResponse[ExecuteResult[OutputT] | PausedResult[OutputT]]: ...
    @overload
    def execute(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> RawResponse[ExecuteResult[OutputT] | PausedResult[OutputT]]: ...
    def execute(self, message: str | None = None, **options: Any) -> Any:
        """Run the flow, as :meth:`~noukai_sdk.Flow.execute` does."""
        transport = self._flow._transport
        program = self._flow._execution(message, options)
        return transport.run(with_response(program, transport))

    @overload
    def execute_async(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> RawResponse[Job[OutputT]]: ...
    @overload
    def execute_async(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> RawResponse[Job[OutputT]]: ...
    def execute_async(self, message: str | None = None, **options: Any) -> Any:
        """Submit a job, as :meth:`~noukai_sdk.Flow.execute_async` does."""
        program, parse = self._flow._submission(message, options)
        transport = self._flow._transport
        raw = transport.run(with_response(program, transport))
        raw.parsed = Job(raw.parsed, transport, parse)
        return raw


class AsyncRawFlow:
    """See :class:`RawFlow`; ``await`` the methods."""

    def __init__(self, flow: AsyncFlow) -> None:
        self._flow = flow

    @overload
    def execute(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> Coroutine[Any, Any, RawResponse[ExecuteResult[OutputT] | PausedResult[OutputT]]]: ...
    @overload
    def execute(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> Coroutine[Any, Any, RawResponse[ExecuteResult[OutputT] | PausedResult[OutputT]]]: ...
    def execute(self, message: str | None = None, **options: Any) -> Any:
        """Run the flow, as :meth:`~noukai_sdk.Flow.execute` does."""
        transport = self._flow._transport
        program = self._flow._execution(message, options)
        return transport.run(with_response(program, transport))

    @overload
    def execute_async(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> Coroutine[Any, Any, RawResponse[AsyncJob[OutputT]]]: ...
    @overload
    def execute_async(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> Coroutine[Any, Any, RawResponse[AsyncJob[OutputT]]]: ...
    def execute_async(self, message: str | None = None, **options: Any) -> Any:
        """Submit a job, as :meth:`~noukai_sdk.Flow.execute_async` does."""
        program, parse = self._flow._submission(message, options)
        transport = self._flow._transport

        async def submitted() -> RawResponse[AsyncJob[Any]]:
            raw = await transport.run(with_response(program, transport))
            raw.parsed = AsyncJob(raw.parsed, transport, parse)
            return raw

        return submitted()
