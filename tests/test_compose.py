"""docker-compose.yml and Dockerfile, as far as they can be checked where no Docker engine runs."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import click
import pytest
import yaml

from noukai_sdk.cli.commands import noukai
from tests.support.servers import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
APPS = sorted(SERVICES.keys() - {"backend"})

service = pytest.mark.parametrize("name", sorted(SERVICES))
app = pytest.mark.parametrize("name", APPS)


def instructions(word: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word}\s+(.*)$", joined, re.MULTILINE)


def published() -> dict[int, int]:
    """The port inside → the port of the host."""
    ports = [entry.split(":") for entry in SERVICES["backend"]["ports"]]
    return {int(inside): int(outside) for _, outside, inside in ports}


def port_in(command: list[str]) -> int:
    options = dict(pairwise(command))
    return int(options.get("--port") or options["--bind"].rpartition(":")[2])


def test_the_file_holds_the_backend_and_every_example_app() -> None:
    folders = {path.parent.name for path in ROOT.glob("example_apps/*/main.py")}
    assert set(APPS) == folders
    assert len(folders) == 2


@service
def test_every_service_runs_the_image_that_is_built_here(name: str) -> None:
    built = SERVICES["backend"]
    assert SERVICES[name]["image"] == built["image"]
    assert (ROOT / built["build"] / "Dockerfile").is_file()


@service
def test_every_command_can_be_found(name: str) -> None:
    program, *arguments = SERVICES[name]["command"]
    scripts = {script.name for script in entry_points(group="console_scripts")}
    declared = 'noukai = "noukai_sdk.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert program in scripts or (program == "noukai" and declared)
    for target in [word for word in arguments if re.fullmatch(r"[\w.]+:[a-z]\w*", word)]:
        path = ROOT / (target.partition(":")[0].replace(".", "/") + ".py")
        assert path.is_file(), target


def test_the_backend_command_takes_these_options() -> None:
    program, name, *arguments = SERVICES["backend"]["command"]
    context = click.Context(noukai)
    command = noukai.get_command(context, name)
    assert program == "noukai"
    assert command is not None
    command.make_context(name, arguments)
    assert json.loads(instructions("CMD")[0]) == SERVICES["backend"]["command"]


@app
def test_the_apps_reach_the_backend_at_the_dev_address(name: str) -> None:
    from noukai_sdk.client import BASE_URLS

    assert SERVICES[name]["network_mode"] == "service:backend"
    assert SERVICES[name]["depends_on"] == {"backend": {"condition": "service_healthy"}}
    assert BASE_URLS["dev"].startswith(
        f"http://localhost:{port_in(SERVICES['backend']['command'])}/"
    )
    environment = SERVICES[name]["environment"]
    assert environment["NOUKAI_ENV"] == "dev"
    assert environment["NOUKAI_API_KEY"] == "nk_dev"


@service
def test_every_port_is_published_on_loopback_and_exposed(name: str) -> None:
    port = port_in(SERVICES[name]["command"])
    assert published()[port] == port
    assert str(port) in instructions("EXPOSE")[0].split()
    assert all(entry.startswith("127.0.0.1:") for entry in SERVICES["backend"]["ports"])


def test_no_two_services_listen_on_one_port() -> None:
    ports = [port_in(service["command"]) for service in SERVICES.values()]
    assert len(set(ports)) == len(ports) == len(published())


def test_every_volume_is_declared_and_writable_for_the_user() -> None:
    volumes = [volume.split(":") for volume in SERVICES["backend"]["volumes"]]
    for volume, path in volumes:
        assert volume in COMPOSE["volumes"]
        assert f"install -d -o noukai {path}" in DOCKERFILE
        assert any(word.startswith(f"{path}/") for word in SERVICES["backend"]["command"])


def test_every_path_that_the_image_copies_exists() -> None:
    copied = [shlex.split(line)[:-1] for line in instructions("COPY")]
    assert copied
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path


def test_the_image_installs_extras_that_exist_and_runs_a_python_that_is_promised() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert all(f"\n{extra} = [" in project for extra in extras.split(","))
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in project


def test_the_health_check_is_a_program() -> None:
    kind, program, option, code = SERVICES["backend"]["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")
    assert f"localhost:{port_in(SERVICES['backend']['command'])}/healthz" in code
