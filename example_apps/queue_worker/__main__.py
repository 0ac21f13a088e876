"""Workers that take jobs from a queue. Each job is a session of its own, and can be replayed.

Run it with ``python -m example_apps.queue_worker``, and NOUKAI_REPLAY_ENABLED=true for the replay.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from noukai_sdk import Noukai, detached, trace_scope_sync

WORKERS = 2


@dataclass
class Job:
    """A text to grade; with ``replay``, the session that its calls are served from."""

    text: str
    replay: str | None = None
    done: Future[tuple[str, str, str]] = field(default_factory=Future)


def grade(noukai: Noukai, text: str) -> str:
    """Do the work of a job. This is the code that a replay lets you debug."""
    return str(noukai.flow("grade-3").execute(text).result)


def work(noukai: Noukai, jobs: queue.Queue[Job | None]) -> None:
    while job := jobs.get():
        try:
            # Not the session of a request that has put the job into the queue: it may have ended.
            with trace_scope_sync(
                client=noukai, replay_session_id=job.replay, strict=job.replay is not None
            ) as scope:
                result = grade(noukai, job.text)
            job.done.set_result((str(scope.session_id), result, scope.report.summary()))
        except Exception as error:  # noqa: BLE001, PERF203 - a bad job must not end its worker
            job.done.set_exception(error)


def main() -> None:
    jobs: queue.Queue[Job | None] = queue.Queue()
    with Noukai(org="acme", project="spelling") as noukai:
        # A worker outlives the request that starts it, so it belongs to none.
        with detached():
            workers = [threading.Thread(target=work, args=(noukai, jobs)) for _ in range(WORKERS)]
            for worker in workers:
                worker.start()

        texts = [Job("Teh cat sat."), Job("I recieve mail."), Job("All is well.")]
        for job in texts:
            jobs.put(job)
        for job in texts:
            session, result, _ = job.done.result()
            print(f"{session} {result[:30]!r}")

        again = Job(texts[1].text, replay=texts[1].done.result()[0])
        jobs.put(again)
        _, replayed, report = again.done.result()
        print(f"replayed: {report}, the same: {replayed == texts[1].done.result()[1]}")

        for _ in workers:
            jobs.put(None)
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
