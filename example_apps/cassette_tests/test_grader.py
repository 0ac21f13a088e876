"""The FastAPI grader, tested through its test client: the request runs in the test's scope."""

import pytest
from fastapi.testclient import TestClient

from example_apps.fastapi_grader.main import app
from noukai_sdk import Scope

pytestmark = pytest.mark.noukai_cassette


@pytest.fixture
def grader() -> TestClient:
    return TestClient(app)


def test_a_grade(grader: TestClient, noukai_cassette: Scope) -> None:
    response = grader.post("/grade", json={"text": "Teh cat sat."})
    assert response.status_code == 200
    assert '"The" instead of "Teh"' in response.json()["grade"]
    assert response.headers["x-noukai-session"] == noukai_cassette.session_id


def test_a_stream_ends_in_the_grade(grader: TestClient) -> None:
    response = grader.post("/grade/stream", json={"text": "Teh cat sat."})
    assert response.text.count("event: step") == 2
    assert response.text.rstrip().rpartition("\n\n")[2].startswith("event: grade")


@pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")
def test_grades_come_in_the_order_of_the_texts(grader: TestClient) -> None:
    texts = ["One cat.", "Two cats.", "Three cats."]
    grades = grader.post("/grade/many", json={"texts": texts}).json()["grades"]
    assert all(text in grade for text, grade in zip(texts, grades, strict=True))


def test_the_apps_own_tools_are_asked(grader: TestClient) -> None:
    response = grader.post("/weather", json={"question": "How is the weather in Oslo?"})
    assert "15" in response.json()["answer"]  # get_weather() says so


def test_a_bad_request_calls_no_flow(grader: TestClient, noukai_cassette: Scope) -> None:
    assert grader.post("/grade", json={}).status_code == 422
    assert not noukai_cassette.report.hits
