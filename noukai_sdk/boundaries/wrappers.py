"""The wrappers of recorded functions, one for each kind of function.

Without a scope, a wrapper calls the function and does nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocol.call import Service
from ..protocol.program import Effect
from ..session.lost_scope import note_lost_function, replays_under_way
from ..session.scope import inherited_scope
from ..session.wrapping import Function, Kind, first_step
from ..transport.drivers import AsyncDrive, SyncDrive
from ..transport.driving import END

if TYPE_CHECKING:
    from .functions import RecordedFunction
    from .recorded_calls import ReplayedCall, RunningCall


class _Offline:
    """Stands for the transport of a program that sends nothing."""

    closed = False
    service = Service("", {}, 0.0, 0, None, spans=None)


OFFLINE: Any = _Offline()


def _begin(
    function: RecordedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RunningCall | ReplayedCall | None:
    scope = inherited_scope()
    if scope is None:
        if replays_under_way:
            note_lost_function(function.name)
        return None
    if scope.mode == "normal":
        return None
    from .recorded_calls import begin

    return begin(function, args, kwargs)


def _plain(function: Function, recorded: RecordedFunction) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _begin(recorded, args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        if call.program is not None:
            with SyncDrive(OFFLINE, call.program) as drive:
                while (effect := drive.next_item()) is not END:
                    drive.perform(effect)
            if drive.result is not None:
                return call.result(drive.result)
        run = call.running()
        with run:
            value = run.body(*args, **kwargs)
        return run.returned(value)

    return wrapper


def _coroutine(function: Function, recorded: RecordedFunction) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _begin(recorded, args, kwargs)
        if call is None:
            return await function(*args, **kwargs)
        if call.program is not None:
            async with AsyncDrive(OFFLINE, call.program) as drive:
                while (effect := drive.next_item()) is not END:
                    await drive.perform(effect)
            if drive.result is not None:
                return call.result(drive.result)
        run = call.running()
        with run:
            value = await run.body(*args, **kwargs)
        return run.returned(value)

    return wrapper


def _generator(function: Function, recorded: RecordedFunction) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = _begin(recorded, args, kwargs)
        if call is None:
            return (yield from function(*args, **kwargs))
        if call.program is not None:
            thrown: BaseException | None = None
            with SyncDrive(OFFLINE, call.program) as drive:
                while (item := drive.next_item()) is not END:
                    if isinstance(item, Effect):
                        drive.perform(item)
                        continue
                    thrown = None
                    try:
                        yield call.value(item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001  # the body may have caught it
                        thrown = error
            if drive.result is not None:
                return call.result(drive.result, thrown)
        return (yield from _kept(call.running(), args, kwargs))

    return wrapper


def _kept(
    run: RunningCall, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Generator[Any, Any, Any]:
    """Run the body of a generator, and keep what it yields."""
    steps = run.body(*args, **kwargs)
    step: Callable[[], Any] = partial(next, steps)
    try:
        while True:
            try:
                with run:
                    item = step()
            except StopIteration as end:
                return run.returned(end.value)
            run.yielded(item)
            try:
                sent = yield item
            except GeneratorExit:
                run.left()
                raise
            except BaseException as error:  # noqa: BLE001  # the body decides what to do with it
                step = partial(steps.throw, error)
            else:
                step = partial(steps.send, sent)
    finally:
        steps.close()


def _async_generator(function: Function, recorded: RecordedFunction) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = _begin(recorded, args, kwargs)
        if call is not None and call.program is not None:
            thrown: BaseException | None = None
            async with AsyncDrive(OFFLINE, call.program) as drive:
                while (item := drive.next_item()) is not END:
                    if isinstance(item, Effect):
                        await drive.perform(item)
                        continue
                    thrown = None
                    try:
                        yield call.value(item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001  # the body may have caught it
                        thrown = error
            if drive.result is not None:
                call.result(drive.result, thrown)
                return
        run = _NotKept(function) if call is None else call.running()
        steps = run.body(*args, **kwargs)
        step = first_step(steps)
        while True:
            try:
                with run:
                    item = await step
            except StopAsyncIteration:
                run.returned(None)
                return
            try:
                run.yielded(item)
            except BaseException:
                await steps.aclose()
                raise
            try:
                sent = yield item
            except GeneratorExit:
                run.left()
                await steps.aclose()
                raise
            except BaseException as error:  # noqa: BLE001  # the body decides what to do with it
                step = steps.athrow(error)
            else:
                step = steps.asend(sent)

    return wrapper


class _NotKept:
    """A call outside of captures and replays."""

    def __init__(self, function: Function) -> None:
        self.body = function

    def returned(self, value: Any) -> None:
        """Do nothing."""

    def yielded(self, value: Any) -> None:
        """Do nothing."""

    def left(self) -> None:
        """Do nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


WRAPPERS: dict[Kind, Callable[[Function, RecordedFunction], Function]] = {
    "plain": _plain,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}
