"""docker-compose.yml and Dockerfile, checked without a Docker engine."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import entry_points
from typing import Any

import click
import pytest
import yaml

from noukai_sdk.cli.commands import noukai
from tests.support.servers import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPS = ("fastapi_grader", "flask_grader")
SERVES, WORKERS = ("serve-1", "serve-2"), ("worker-1", "worker-2")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def instructions(word: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word}\s+(.*)$", joined, re.MULTILINE)


def words_of(name: str) -> list[str]:
    """The command of a service, as the program that runs last and its arguments."""
    command: list[str] = SERVICES[name]["command"]
    if command[:2] != ["sh", "-c"]:
        return command
    words = shlex.split(command[2].replace("$$", "$").rpartition("||")[2])
    return words[words.index("exec") + 1 :] if "exec" in words else words[: words.index(">")]


def test_services_are_two_of_each_postgres_and_two_example_apps() -> None:
    assert set(SERVICES) == {"postgres", "key", *SERVES, *WORKERS, *APPS}
    assert (ROOT / SERVICES["serve-1"]["build"] / "Dockerfile").is_file()
    ours = {service["image"] for name, service in SERVICES.items() if name != "postgres"}
    assert ours == {"noukai"}


@pytest.mark.parametrize("name", [*SERVES, *WORKERS, "key", *APPS])
def test_service_command_exists(name: str) -> None:
    program, *arguments = words_of(name)
    scripts = {script.name for script in entry_points(group="console_scripts")}
    assert program in {*scripts, "noukai"}
    for target in [word for word in arguments if re.fullmatch(r"[\w.]+:[a-z]\w*", word)]:
        path = ROOT / (target.partition(":")[0].replace(".", "/") + ".py")
        assert path.is_file(), target
    if program == "noukai":
        environment = SERVICES[name]["environment"]
        command: click.Command = noukai
        context = click.Context(noukai)
        while isinstance(command, click.Group):
            found = command.get_command(context, arguments.pop(0))
            assert found is not None
            command = found
        options = ["--db", environment["NOUKAI_DB"], *arguments]
        command.make_context(name, options)


def test_apps_share_one_key_and_reach_different_processes() -> None:
    urls = [SERVICES[app]["environment"]["NOUKAI_BASE_URL"] for app in APPS]
    assert urls == [f"http://{serve}:8080/api/v1" for serve in SERVES]
    (written,) = re.findall(r"> (\S+)", SERVICES["key"]["command"][2])
    for app in APPS:
        assert f"NOUKAI_API_KEY=$$(cat {written})" in SERVICES[app]["command"][2]
        assert SERVICES[app]["depends_on"] == {
            "key": {"condition": "service_completed_successfully"}
        }


def test_ports_are_distinct_exposed_and_published_on_loopback() -> None:
    published = [
        entry.split(":") for service in SERVICES.values() for entry in service.get("ports", ())
    ]
    assert len({outside for _, outside, _ in published}) == len(published) == 4
    for host, _, inside in published:
        assert host == "127.0.0.1"
        assert inside in instructions("EXPOSE")[0].split()


def test_image_copies_and_installs_what_exists() -> None:
    copied = [path for line in instructions("COPY") for path in shlex.split(line)[:-1]]
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert all(f"\n{extra} = [" in PROJECT for extra in extras.split(","))
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT
    assert json.loads(instructions("CMD")[0]) == words_of("serve-1")
    for service in SERVICES.values():
        for volume, path, *_ in (entry.split(":") for entry in service.get("volumes", ())):
            assert volume in COMPOSE["volumes"]
            assert path.startswith("/var/lib/postgresql") or path in DOCKERFILE


def test_health_check_is_valid_python() -> None:
    kind, program, option, code = SERVICES["serve-1"]["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")
    assert "localhost:8080/readyz" in code
