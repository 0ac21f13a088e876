"""See which tasks of a trio run are scheduled, by trio's own instruments."""

from __future__ import annotations

from typing import Any

import trio

from .activity import Activity, LoopTasks, Motion

# What trio does when another thread wakes it, in the context in which the run began.
_WAKE_UP = "<TrioToken.run_sync_soon task>"


class TrioTasks(LoopTasks, trio.abc.Instrument):
    """The tasks of one replay that were scheduled since the last look.

    Attributes:
        looking: The task that looks; it does not count.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, activity: Activity) -> None:
        super().__init__(token.run_sync_soon, activity)
        self.looking: Any = None
        self._motion = Motion.OWN
        trio.lowlevel.add_instrument(self)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Note whose task becomes ready."""
        activity = self._activity()
        if activity is None:
            trio.lowlevel.remove_instrument(self)
        elif task.name == _WAKE_UP or task is self.looking:
            return
        elif self._motion is not Motion.OWN:
            whose = activity.whose(task.context)
            if whose is not False:
                self._motion = Motion.OWN if whose else Motion.OTHERS

    def motion(self) -> Motion:
        """Return whose tasks were scheduled since the last look."""
        motion, self._motion = self._motion, Motion.NOTHING
        return motion
