"""Every block of the README and the docs runs. How to write one: CONTRIBUTING.md."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import noukai_sdk
from tests.docs.blocks import Block, blocks_of, pages_of
from tests.docs.page import Page, port_of
from tests.support.servers import ROOT, Server, serve_backend

# Programs, not modules: importing them runs them.
NOT_IMPORTED = ("noukai_sdk.backend.migrations", "noukai_sdk.cli.__main__")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The backend that every page finds running."""
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page in an empty folder, with the virtual environment's programs at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.syspath_prepend(str(tmp_path))
    page = Page(tmp_path)
    yield page
    page.close()


def run(page: Page, block: Block) -> None:
    try:
        page.run(block)
    except Exception as error:
        raise AssertionError(f"{block}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("path", pages_of(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_runs(
    path: Path, reader: Page, backend: Server, redirect_dev: Callable[[str], None]
) -> None:
    reader.ports[8080] = port_of(backend)
    for block in blocks_of(path.read_text(), path.relative_to(ROOT).as_posix()):
        # A page may start a backend of its own, with its own flows.
        redirect_dev(f"http://127.0.0.1:{reader.ports[8080]}/api/v1")
        run(reader, block)


def modules() -> list[str]:
    found = pkgutil.walk_packages(noukai_sdk.__path__, "noukai_sdk.")
    return [module.name for module in found if not module.name.startswith(NOT_IMPORTED)]


@pytest.mark.parametrize("name", modules())
def test_every_example_in_a_docstring_runs(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


AB = "<!-- test: output -->\n```text\na...b\n```"


def page_of(text: str) -> list[Block]:
    return list(blocks_of(text, "page.md"))


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\nprint(x)\n```\n<!-- test: output -->\n```text\n1\n```",
        "```python\nx = 1\n```\n<!-- test: continues -->\n```python\nassert x == 1\n```",
        "<!-- test: setup\nx = 1\n-->\n```python\nassert x == 1\n```",
        "<!-- test: raises=ZeroDivisionError -->\n```python\n1 / 0\n```",
        "```python\nimport asyncio\nawait asyncio.sleep(0)\n```",
        "<!-- test: file=a.py -->\n```python\nprint('ab')\n```\n```bash\npython a.py\n```\n" + AB,
        "```bash\nWORD='a\nb'\n```\n```bash\necho \\\n  $WORD\n```\n" + AB,
        "```bash\nWORD=$(echo a 'b')\necho $WORD\n```\n" + AB,
        "> ```bash\n> make test  # and: pip install 'noukai-sdk[fastapi,flask]'\n> ```",
        "<!-- test: not-run=needs an account -->\n```bash\nrocket launch\n```",
        '```json\n{"a": 1}\n```\n```yaml\na: 1\n```\n```text\nanything\n```',
    ],
)
def test_a_good_page_passes(text: str, reader: Page) -> None:
    for block in page_of(text):
        run(reader, block)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```python\nassert 1 == 2\n```", "page.md:1: AssertionError"),
        ("text\n\n```python\n1 / 0\n```", "page.md:3: ZeroDivisionError"),
        ("```python\nx = 1\n```\n```python\nx\n```", "NameError"),
        ("<!-- test: raises=ValueError -->\n```python\n1\n```", "should have ended in ValueError"),
        ("```python\nprint(1)\n```\n<!-- test: output -->\n```text\n2\n```", "printed:\n1"),
        ("```bash\nfalse | cat\n```", "no known command"),
        ("```bash\ncat missing\n```", "No such file"),
        ("```bash\nrocket launch\n```", "no known command"),
        ("```bash\nHEIGHT=$(rocket launch)\n```", "no known command"),
        ("```bash\necho 'open\n```", "a quotation is not closed"),
        ("```bash\nmake rockets\n```", "no such target"),
        ("```bash\npip install noukai-sdk[rockets]\n```", "no such extra"),
        ("```\nx\n```", "a block without a language"),
        ("```rust\nx\n```", "rust: say what it is"),
        ("```json\n{\n```", "JSONDecodeError"),
        ("<!-- test: not-run=fragment -->\n```python\nx = = 1\n```", "SyntaxError"),
        ("<!-- test: not-run -->\n```python\nx\n```", "say why"),
    ],
)
def test_a_bad_block_fails_with_its_place(text: str, why: str, reader: Page) -> None:
    with pytest.raises(AssertionError) as failure:  # noqa: PT012  # the last block is the bad one
        for block in page_of(text):
            run(reader, block)
    assert why in str(failure.value)


@pytest.mark.parametrize(
    "text", ["<!-- test: continue -->\n```python\n1\n```", "<!-- test: continues -->\n\nText"]
)
def test_a_note_that_nobody_reads_fails(text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md:\d+: "):
        page_of(text)


def test_a_server_command_serves_the_blocks_after_it(
    reader: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ".")
    app = "async def app(scope, receive, send):\n"
    app += "    if scope['type'] == 'http':\n"
    app += "        await send({'type': 'http.response.start', 'status': 200})\n"
    app += "        await send({'type': 'http.response.body', 'body': b'hello'})\n"
    text = f"<!-- test: file=hello.py -->\n```python\n{app}```\n"
    text += "```bash\nuvicorn hello:app --port 8123 --lifespan off &\n```\n"
    text += (
        "```bash\ncurl -s http://localhost:8123/\n```\n<!-- test: output -->\n```text\nhello\n```"
    )
    for block in page_of(text):
        run(reader, block)
