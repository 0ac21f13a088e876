"""Flows are listed and published; a published version stays as it is, in every process."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from noukai_sdk.cli.commands import noukai

from .backends import MESSAGE, Backend, code_of, serving

TOOLS = "def mark(text): return text + '{mark}'"
MARKED = "steps: [{id: mark, function: '_marks.py:mark'}]"


def publish(backend: Backend, flow: str) -> tuple[int, dict[str, Any]]:
    response = backend.client.post(f"/flows/acme/tests/{flow}/publish")
    return response.status_code, response.json()


def flow_of(backend: Backend, flow: str) -> dict[str, Any]:
    response = backend.get(f"/flows/acme/tests/{flow}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def marked_result(backend: Backend, path: str, session: str | None = None) -> str:
    response = backend.post(f"tests/{path}/execute", {"message": "hey"}, session)
    assert response.status_code == 200, response.text
    return str(response.json()["result"])


def test_published_version_stays_when_the_files_change_and_serves_a_process_without_them(
    database: str, tmp_path: Path
) -> None:
    with serving(tmp_path, database=database) as first:
        folder = first.settings.flows[0] / "acme/tests"
        (folder / "_marks.py").write_text(TOOLS.format(mark="!"))
        first.write_flow("marked", MARKED)
        status, body = publish(first, "marked")
        assert (status, body["version"], body["isNew"]) == (201, 1, True)
        assert publish(first, "marked") == (200, {**body, "isNew": False})
        assert marked_result(first, "marked/v1") == "hey!"
        (folder / "_marks.py").write_text(TOOLS.format(mark=" 2"))
        assert marked_result(first, "marked", "hashes") == "hey 2"
        assert marked_result(first, "marked/v1", "hashes") == "hey!"
        status, second = publish(first, "marked")
        assert (status, second["version"]) == (201, 2)
        runs = first.session("hashes")
        assert [run["version"] for run in runs] == [None, 1]
        hashes = [run["contentHash"] for run in runs]
        assert hashes == [second["contentHash"], body["contentHash"]]
        versions = flow_of(first, "marked")["versions"]
        assert [version["version"] for version in versions] == [1, 2]
        assert [version["contentHash"] for version in versions] == hashes[::-1]
    shutil.rmtree(folder)
    with serving(tmp_path, write=False, database=database) as other:
        assert [marked_result(other, f"marked/v{n}") for n in (1, 2)] == ["hey!", "hey 2"]
        job = other.submit("tests/marked/v1", {"message": "hey"})
        assert other.finished("tests/marked", job)["result"] == "hey!"
        assert code_of(other.post("tests/marked/execute", MESSAGE)) == (404, "FLOW_NOT_FOUND")
        assert code_of(other.post("tests/marked/v3/execute", MESSAGE)) == (404, "FLOW_NOT_FOUND")
        listed = flow_of(other, "marked")
        assert (listed["flowId"], len(listed["versions"])) == (None, 2)
        assert other.session("hashes")[1]["slug"] == "marked"


def test_publish_at_once_gives_one_version_for_each_content(stored: Backend) -> None:
    stored.write_flow("busy", "steps: [{id: one}]")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: publish(stored, "busy"), range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert {body["version"] for _, body in answers} == {1}


def test_publish_rejects_what_cannot_be_frozen(fresh: Backend) -> None:
    def refused(flow: str) -> tuple[int, str]:
        return code_of(fresh.client.post(f"/flows/acme/tests/{flow}/publish"))

    response = fresh.client.post("/flows/acme/tests/bad/publish")
    detail = response.json()["detail"]
    assert (response.status_code, detail["code"]) == (422, "INVALID_TREE")
    assert [problem["file"] for problem in detail["problems"]] == ["acme/tests/bad.yaml"]
    # The last valid version is still served, but is not what the file says.
    assert publish(fresh, "three")[0] == 201
    fresh.write_flow("three", "steps: 5")
    assert fresh.post("tests/three/execute", MESSAGE).status_code == 200
    assert publish(fresh, "three")[0] == 422
    (fresh.settings.flows[0] / "acme/tests/code.py").write_text(
        "from noukai_sdk.local import Node, Workflow\n"
        "workflow = Workflow('Code')\n"
        "workflow.add_node(Node.agent('Only'))\n"
    )
    assert refused("code") == (422, "FLOW_NOT_FREEZABLE")
    assert refused("pinned") == (409, "VERSIONS_ARE_FILES")
    for unknown in ("unknown", "x" * 300, "%00"):
        assert refused(unknown) == (404, "FLOW_NOT_FOUND")


def test_published_version_wins_over_a_file_of_its_number(fresh: Backend) -> None:
    assert publish(fresh, "three")[0] == 201
    fresh.write_flow("three.v1", "steps: [{id: other, transform: uppercase}]")
    fresh.post("tests/three/v1/execute", MESSAGE, "three")
    assert fresh.session("three")[0]["steps"][0]["stepId"] == "one"
    listed = flow_of(fresh, "three")
    assert [version["version"] for version in listed["versions"]] == [1]
    assert [p["message"] for p in listed["problems"]] == ["not used: version 1 is published"]
    assert code_of(fresh.client.post("/flows/acme/tests/three/publish")) == (
        409,
        "VERSIONS_ARE_FILES",
    )


def test_flows_publish_and_versions_commands_ask_the_service(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_API_KEY", "nk_dev")
    monkeypatch.setenv("NOUKAI_BASE_URL", f"{fresh.url}/api/v1")

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(noukai, ["flows", *words])
        assert result.exit_code == exit_code, result.output
        return result.output

    assert run("versions", "acme/tests/three") == "no versions\n"
    first = run("publish", "acme/tests/three")
    assert first == "acme/tests/three is version 1: call it at /v1\n"
    assert "version 1, which has the same content" in run("publish", "acme/tests/three")
    assert json.loads(run("publish", "acme/tests/three", "--json"))["isNew"] is False
    fresh.write_flow("three", "steps: [{id: new}]")
    run("publish", "acme/tests/three")
    old, new = run("versions", "acme/tests/three").splitlines()
    assert (old.split()[0], new.split()[0]) == ("v1", "v2")
    assert "working copy" in new
    assert "working copy" not in old
    assert len(json.loads(run("versions", "acme/tests/three", "--json"))["versions"]) == 2
    assert "valid list" in run("publish", "acme/tests/bad", exit_code=1)
    assert "no flow acme/tests/unknown" in run("publish", "acme/tests/unknown", exit_code=2)
    run("publish", "three", exit_code=2)
    monkeypatch.setenv("NOUKAI_BASE_URL", f"{fresh.url}/nothing")
    assert "does not publish flows" in run("publish", "acme/tests/three", exit_code=2)


def test_flow_list_pages_through_the_flows_of_the_key(stored: Backend) -> None:
    publish(stored, "three")
    pages: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = stored.client.get("/flows", params={"limit": "5", **cursor}).json()
        pages += body["flows"]
        if body["nextCursor"] is None:
            break
        assert len(body["flows"]) == 5
        cursor = {"cursor": body["nextCursor"]}
    names = [f"{flow['org']}/{flow['project']}/{flow['slug']}" for flow in pages]
    assert names == sorted(names)
    assert {"acme/samples/hello-world", "acme/tests/bad", "otherorg/things/hello"} < set(names)
    flows = dict(zip(names, pages, strict=True))
    assert [v["version"] for v in flows["acme/tests/pinned"]["versions"]] == [2]
    assert flows["acme/tests/three"]["versions"][0]["publishedAt"] is not None
    assert flows["acme/tests/bad"]["flowId"] is None
    assert flows["acme/tests/bad"]["problems"][0]["line"] == 1
    other = {"Authorization": "Bearer nk_other"}
    mine = stored.client.get("/flows", headers=other).json()["flows"]
    assert [flow["slug"] for flow in mine] == ["hello"]
    for path in ("/flows/acme/tests/three", "/flows/acme/tests/unknown"):
        assert stored.get(path, **other).status_code in (403, 404)
    hidden: httpx.Response = stored.client.post("/flows/acme/tests/three/publish", headers=other)
    assert hidden.status_code in (403, 404)
    for query in ({"limit": "0"}, {"limit": "201"}, {"cursor": "!"}, {"cursor": "YQ"}):
        assert code_of(stored.client.get("/flows", params=query)) == (400, "INVALID_REQUEST")


def test_flow_list_finds_names_and_problems(fresh: Backend) -> None:
    def names(**query: str) -> list[str]:
        flows = fresh.client.get("/flows", params=query).json()["flows"]
        return [f"{flow['project']}/{flow['slug']}" for flow in flows]

    assert names(problems="true") == ["tests/bad"]
    assert names(q="sts/thr") == ["tests/three"]
    assert publish(fresh, "three")[0] == 201
    fresh.write_flow("three.v1", "steps: [{id: hidden}]")
    assert names(problems="true", limit="2") == ["tests/bad", "tests/three"]
    assert names(problems="true", q="three") == ["tests/three"]
    assert code_of(fresh.client.get("/flows?problems=maybe")) == (400, "INVALID_REQUEST")


def test_flow_is_described_with_all_that_its_picture_shows(fresh: Backend) -> None:
    def steps(flow: str, **query: str) -> dict[str, dict[str, Any]]:
        response = fresh.client.get(f"/flows/acme/tests/{flow}", params=query)
        assert response.status_code == 200, response.text
        return {step["id"]: step for step in response.json()["steps"]}

    fan = steps("fan")
    assert (fan["sure"]["kind"], fan["sure"]["code"]) == ("condition", "message == 'never'")
    assert (fan["no_"]["needs"], fan["no_"]["unless"]) == (["sure"], ["sure"])
    assert (fan["each"]["forEach"], fan["each"]["needs"]) == (
        "{{parameters.words}}",
        ["left", "right"],
    )
    assert steps("asks")["ask"]["tools"] is True
    fresh.write_flow("three", "steps: [{id: loud, transform: uppercase}]")
    assert publish(fresh, "three")[0] == 201
    fresh.write_flow("three", "{parameters: {a: 1}, steps: [{id: new, system: S, prompt: P}]}")
    assert steps("three", version="1")["loud"]["code"] == "uppercase"
    new = steps("three")["new"]
    assert (new["system"], new["prompt"], new["model"]) == ("S", "P", "offline")
    assert flow_of(fresh, "three")["parameters"] == {"a": 1}
    for version, expected in (("2", (404, "FLOW_NOT_FOUND")), ("x", (400, "INVALID_REQUEST"))):
        response = fresh.client.get("/flows/acme/tests/three", params={"version": version})
        assert code_of(response) == expected
