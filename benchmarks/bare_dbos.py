"""The yardstick of jobs: DBOS alone, with a workflow of one step, as its documentation writes it.

``python -m benchmarks.bare_dbos URL COUNT`` prints the jobs per second, from the first that is enqueued to
the last that has completed.
"""

from __future__ import annotations

import sys
import time

from dbos import DBOS, DBOSConfig, SetWorkflowID

QUEUE = "bench"


@DBOS.step()
async def answer(message: str) -> str:
    return message.upper()


@DBOS.workflow()
async def job(message: str) -> str:
    return await answer(message)


def main(url: str, count: int) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=32, polling_interval_sec=0.05)
    run(10, "warm")
    start = time.perf_counter()
    run(count, "job")
    print(count / (time.perf_counter() - start), flush=True)
    DBOS.destroy()


def run(count: int, name: str) -> None:
    handles = []
    for number in range(count):
        with SetWorkflowID(f"{name}-{number}"):
            handles.append(DBOS.enqueue_workflow(QUEUE, job, "The cat sat on the mat."))
    for handle in handles:
        handle.get_result()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
