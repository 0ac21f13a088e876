"""A service of real processes on this machine: `noukai serve` and `noukai worker`, or one `noukai dev`.

The flow ``acme/faults/chain`` has five steps. Each is a function that appends its job and its name to a
file, so the file shows what was run, and how often, whatever the database says.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import ROOT, Process, Server, serve_command, start_process, wait_until

JOBS = int(os.environ.get("FAULTS", "12"))
"""How many jobs are in progress when a process is killed. ``make faults`` sets it; else few tests run."""

FULL = JOBS >= 100
"""The long form: hearts beat as slowly as in a real service."""

long = pytest.mark.skipif("FAULTS" not in os.environ, reason="run it by `make faults`")
STEPS = ["one", "two", "three", "four", "five"]
FLOWS = {
    "chain.yaml": "steps:\n"
    + "".join(
        f"  - id: {name}\n    function: _marks.py:mark\n"
        f"    arguments: {{job: '{{{{message}}}}', step: {name}}}\n"
        for name in STEPS
    ),
    "held.yaml": "steps: [{id: wait, function: '_marks.py:wait'}]",
    "loop.yaml": "steps: [{id: each, function: '_marks.py:item', for_each: '{{parameters.items}}'}]",
    "poison.yaml": "steps: [{id: die, function: '_marks.py:die'}]",
    "_marks.py": """
import os, time

def mark(job, step):
    file = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{job} {step}\\n".encode())
    os.close(file)
    time.sleep(0.03)
    return step

def wait(text):
    mark(text, "wait")
    while not os.path.exists(os.environ["MARKS"] + ".open"):
        time.sleep(0.01)
    return text

def item(name):
    mark("loop", name)
    while name == "held" and not os.path.exists(os.environ["MARKS"] + ".open"):
        time.sleep(0.01)
    return name

def die(text):
    mark("poison", "die")
    os._exit(1)
""",
}
# The command line with a heart that beats faster: a test of takeover must not take 15 seconds.
FAST = """
import sys
from noukai_sdk.backend import heartbeat
heartbeat.INTERVAL, heartbeat.DEAD_AFTER = 0.3, 3.0
from noukai_sdk.cli import main
main()
"""


@dataclass
class Cluster:
    """The processes of one service."""

    folder: Path
    database: str
    stack: ExitStack
    key: str = "nk_dev"
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        flows = self.folder / "flows/acme/faults"
        flows.mkdir(parents=True, exist_ok=True)
        for name, text in FLOWS.items():
            (flows / name).write_text(text)

    @property
    def marks(self) -> Path:
        """The file to which the steps write."""
        return self.folder / "marks"

    @property
    def env(self) -> dict[str, str]:
        """The environment of the processes."""
        path = {"PYTHONPATH": str(ROOT)}
        return {**os.environ, **path, "MARKS": str(self.marks), "PYTHONUNBUFFERED": "1"}

    def command(self, *words: str) -> list[str]:
        """Return the command line of a process."""
        start = ["-m", "noukai_sdk.cli"] if FULL else ["-c", FAST]
        return [sys.executable, *start, *words, "--db", self.database]

    def start_worker(self) -> Process:
        """Start a worker, and wait until it takes jobs."""
        log = self.folder / f"worker{next(self._numbers)}.txt"
        command = self.command("worker", "--flows", "flows", "--grace", "1", "--jobs", "8")
        worker = start_process(command, env=self.env, cwd=self.folder, log=log)
        self.stack.callback(worker.wait, 30)
        self.stack.callback(worker.kill)
        wait_until(lambda: "takes jobs" in log.read_text(), what=log.read_text(), deadline=40)
        return worker

    def start_replica(self) -> Server:
        """Start a web process."""
        return self._serve("serve")

    def start_dev(self) -> Server:
        """Start the one process that does everything."""
        return self._serve("dev")

    def _serve(self, name: str) -> Server:
        command = self.command(name, "--port", "{port}", "--flows", "flows")
        running = serve_command(command, cwd=self.folder, env=self.env, ready="/healthz")
        return self.stack.enter_context(running)

    def create_key(self) -> None:
        """Create the API key of the organisation."""
        self.key = self.keys("create", "--org", "acme").strip()

    def keys(self, *words: str) -> str:
        """Return what a command of `noukai keys` prints."""
        command = [sys.executable, "-m", "noukai_sdk.cli", "keys", *words, "--db", self.database]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def client(self, server: Server) -> httpx.Client:
        """Return a client of one web process."""
        headers = {"Authorization": f"Bearer {self.key}"}
        base = f"{server.api}/seq/acme/faults"
        return self.stack.enter_context(httpx.Client(base_url=base, headers=headers, timeout=30))

    def submit(self, server: Server, count: int = JOBS, flow: str = "chain") -> dict[str, str]:
        """Submit jobs; return their execution ids by their names."""
        client = self.client(server)
        jobs = {}
        for number in range(count):
            response = client.post(f"/{flow}/jobs", json={"message": f"job{number}"})
            assert response.status_code == 202, response.text
            jobs[f"job{number}"] = response.json()["executionId"]
        return jobs

    def poll(self, server: Server, job: str, flow: str = "chain") -> dict[str, Any]:
        """Return the state of a job."""
        body: dict[str, Any] = self.client(server).get(f"/{flow}/jobs/{job}").json()
        return body

    def finish(
        self, server: Server, jobs: dict[str, str], deadline: float = 90
    ) -> dict[str, dict[str, Any]]:
        """Wait until all jobs have ended; return their last polls by name."""
        client = self.client(server)
        ended: dict[str, dict[str, Any]] = {}

        def look() -> bool:
            for name in jobs.keys() - ended.keys():
                body = client.get(f"/chain/jobs/{jobs[name]}").json()
                if body["status"] in ("completed", "failed", "cancelled"):
                    ended[name] = body
            return len(ended) == len(jobs)

        wait_until(look, deadline=deadline, what="all jobs")
        return ended

    def let_go(self) -> None:
        """Let the steps of the flow ``held`` end."""
        (self.folder / "marks.open").touch()

    def lines(self) -> list[list[str]]:
        """Return the job and the step of each mark."""
        text = self.marks.read_text() if self.marks.exists() else ""
        return [line.split() for line in text.splitlines()]

    def check_marks(self, jobs: dict[str, str]) -> None:
        """Check that each job ran each of its steps, and none that was finished a second time."""
        steps: dict[str, list[int]] = defaultdict(list)
        for job, step in self.lines():
            if job not in jobs:
                continue
            steps[job].append(STEPS.index(step))
        for job in jobs:
            ran = steps[job]
            # The next step begins when the one before is on disk. From then on it is never repeated.
            assert ran == sorted(ran), (job, ran)
            assert sorted(set(ran)) == list(range(len(STEPS))), (job, ran)

    def wait_for_marks(self, count: int) -> None:
        """Wait until the steps have written this number of lines."""
        wait_until(lambda: len(self.lines()) >= count, deadline=60, what=f"{count} marks")


@contextmanager
def cluster(folder: Path, database: str) -> Iterator[Cluster]:
    """Open a cluster with no processes; they end with the block."""
    with ExitStack() as stack:
        yield Cluster(folder, database, stack)
