"""Run every block of the README and the docs. CONTRIBUTING.md says how to write one."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import noukai_sdk
from tests.docs.blocks import Block, blocks_of, pages_of
from tests.docs.page import Page
from tests.support.servers import ROOT

# Importing these runs them.
PROGRAMS = ("noukai_sdk.backend.migrations", "noukai_sdk.cli.__main__")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page in an empty folder, with the programs of the virtual environment on the path."""
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
def test_page_blocks_run(path: Path, reader: Page) -> None:
    for block in blocks_of(path.read_text(), path.relative_to(ROOT).as_posix()):
        run(reader, block)


def test_docstring_examples_run() -> None:
    modules = pkgutil.walk_packages(noukai_sdk.__path__, "noukai_sdk.")
    names = [module.name for module in modules if not module.name.startswith(PROGRAMS)]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) > 20


AB = "<!-- test: output -->\n```text\na...b\n```"


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\nprint(x)\n```\n<!-- test: output -->\n```text\n1\n```",
        "```python\nx = 1\n```\n<!-- test: continues -->\n```python\nassert x == 1\n```",
        "<!-- test: setup\nx = 1\n-->\n```python\nassert x == 1\n```",
        "<!-- test: raises=ZeroDivisionError -->\n```python\n1 / 0\n```",
        "```bash\nexport A=1 B=2\n```\n```python\nimport os\nassert os.environ['B'] == '2'\n```",
        "```bash\nexport WORD=ab\necho $WORD\n```\n" + AB,
        "<!-- test: file=a.py -->\n```python\nprint('ab')\n```\n```bash\npython a.py\n```\n" + AB,
        "```bash\nWORD='a\nb'\n```\n```bash\necho \\\n  $WORD\n```\n" + AB,
        "```bash\nWORD=$(echo a 'b')\necho $WORD\n```\n" + AB,
        "> ```bash\n> make test  # and: pip install -e '.[fastapi,flask]'\n> ```",
        "<!-- test: not-run=needs an account -->\n```bash\nrocket launch\n```",
        '```json\n{"a": 1}\n```\n```yaml\na: 1\n```\n```text\nanything\n```',
    ],
)
def test_good_page_passes(text: str, reader: Page) -> None:
    for block in blocks_of(text, "page.md"):
        run(reader, block)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```python\nassert 1 == 2\n```", "page.md:1: AssertionError"),
        ("text\n\n```python\n1 / 0\n```", "page.md:3: ZeroDivisionError"),
        ("```python\nx = 1\n```\n```python\nx\n```", "NameError"),
        ("<!-- test: raises=ValueError -->\n```python\n1\n```", "should have ended in ValueError"),
        ("```python\nprint(1)\n```\n<!-- test: output -->\n```text\n2\n```", "printed:\n1"),
        ("```bash\nfalse | cat\n```", "unknown command"),
        ("```bash\ncat missing\n```", "No such file"),
        ("```bash\nrocket launch\n```", "unknown command"),
        ("```bash\nHEIGHT=$(rocket launch)\n```", "unknown command"),
        ("```bash\necho 'open\n```", "a quotation is not closed"),
        ("```bash\nmake rockets\n```", "not a target of the Makefile"),
        ("```bash\npip install -e '.[rockets]'\n```", "not an extra in pyproject.toml"),
        ("```bash\npip install ../here[rockets]\n```", "not an extra in pyproject.toml"),
        ("```bash\npip install noukai-sdk[cli]\n```", "install from a checkout"),
        ("```python\nimport asyncio\nawait asyncio.sleep(0)\n```", "outside function"),
        ("```\nx\n```", "no language: this kind of block is unknown"),
        ("```rust\nx\n```", "rust: this kind of block is unknown"),
        ("```json\n{\n```", "JSONDecodeError"),
        ("<!-- test: not-run=fragment -->\n```python\nx = = 1\n```", "SyntaxError"),
        ("<!-- test: not-run -->\n```python\nx\n```", "give the reason"),
        ("<!-- test: continue -->\n```python\n1\n```", "page.md:1: <!-- test: continue -->"),
        ("<!-- test: continues -->\n\nText", "page.md:3: the note above"),
    ],
)
def test_bad_page_fails_with_line(text: str, why: str, reader: Page) -> None:
    with pytest.raises((AssertionError, ValueError)) as failure:  # noqa: PT012  # the last block
        for block in blocks_of(text, "page.md"):
            run(reader, block)
    assert why in str(failure.value)


def test_server_command_serves_later_blocks(reader: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ".")
    app = "async def app(scope, receive, send):\n"
    app += "    if scope['type'] == 'http':\n"
    app += "        await send({'type': 'http.response.start', 'status': 200})\n"
    app += "        await send({'type': 'http.response.body', 'body': b'hello'})\n"
    text = f"<!-- test: file=hello.py -->\n```python\n{app}```\n"
    text += "```bash\nuvicorn hello:app --port 8123 --lifespan off &\n```\n"
    text += "```bash\ncurl -s http://localhost:8123/\n```\n"
    text += "<!-- test: output -->\n```text\nhello\n```"
    for block in blocks_of(text, "page.md"):
        run(reader, block)
