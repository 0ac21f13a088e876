"""docker-compose.yml and Dockerfile, checked without a Docker engine."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import click
import yaml

from noukai_sdk.cli.commands import noukai
from noukai_sdk.client import BASE_URLS
from tests.support.servers import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BACKEND = SERVICES["backend"]
APPS = {name: service for name, service in SERVICES.items() if name != "backend"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def instructions(word: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word}\s+(.*)$", joined, re.MULTILINE)


def port_in(service: dict[str, Any]) -> int:
    options = dict(pairwise(service["command"]))
    return int(options.get("--port") or options["--bind"].rpartition(":")[2])


def test_services_are_backend_and_every_example_app() -> None:
    folders = {path.parent.name for path in ROOT.glob("example_apps/*/main.py")}
    assert set(APPS) == folders
    assert len(folders) == 2
    assert (ROOT / BACKEND["build"] / "Dockerfile").is_file()
    assert {service["image"] for service in SERVICES.values()} == {BACKEND["image"]}


def test_service_commands_exist() -> None:
    scripts = {script.name for script in entry_points(group="console_scripts")}
    if 'noukai = "noukai_sdk.cli:main"' in PROJECT:
        scripts.add("noukai")
    for service in SERVICES.values():
        program, *arguments = service["command"]
        assert program in scripts
        for target in [word for word in arguments if re.fullmatch(r"[\w.]+:[a-z]\w*", word)]:
            path = ROOT / (target.partition(":")[0].replace(".", "/") + ".py")
            assert path.is_file(), target

    program, name, *arguments = BACKEND["command"]
    context = click.Context(noukai)
    command = noukai.get_command(context, name)
    assert program == "noukai"
    assert command is not None
    command.make_context(name, arguments)
    assert json.loads(instructions("CMD")[0]) == BACKEND["command"]


def test_apps_reach_backend_at_dev_address() -> None:
    assert BASE_URLS["dev"].startswith(f"http://localhost:{port_in(BACKEND)}/")
    for app in APPS.values():
        assert app["network_mode"] == "service:backend"
        assert app["depends_on"] == {"backend": {"condition": "service_healthy"}}
        assert app["environment"]["NOUKAI_ENV"] == "dev"
        assert app["environment"]["NOUKAI_API_KEY"] == BACKEND["environment"]["NOUKAI_DEV_KEYS"]


def test_ports_are_distinct_exposed_and_published_on_loopback() -> None:
    published = [entry.split(":") for entry in BACKEND["ports"]]
    ports = {port_in(service) for service in SERVICES.values()}
    assert len(ports) == len(SERVICES) == len(published)
    assert ports == {int(inside) for _, _, inside in published}
    for host, outside, inside in published:
        assert (host, outside) == ("127.0.0.1", inside)
        assert inside in instructions("EXPOSE")[0].split()


def test_image_copies_and_installs_what_exists() -> None:
    copied = [path for line in instructions("COPY") for path in shlex.split(line)[:-1]]
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert all(f"\n{extra} = [" in PROJECT for extra in extras.split(","))
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT
    for volume, path in (entry.split(":") for entry in BACKEND["volumes"]):
        assert volume in COMPOSE["volumes"]
        assert f"install -d -o noukai {path}" in DOCKERFILE
        assert any(word.startswith(f"{path}/") for word in BACKEND["command"])


def test_health_check_is_valid_python() -> None:
    kind, program, option, code = BACKEND["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")
    assert f"localhost:{port_in(BACKEND)}/healthz" in code
