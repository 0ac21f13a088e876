"""The causes of what differs: each once, without what follows from another, alike in all sessions."""

from __future__ import annotations

from typing import Any

from noukai_sdk.batch.causes import grouped, result_of
from noukai_sdk.models.session_lists import StoredReport
from noukai_sdk.replay.response_diff import ResponseDifference
from noukai_sdk.replaying.outcome import AppException, Outcome

SITE = "/srv/app/main.py:14 in grade"


def entry(position: int = 0, slug: str | None = "f", **fields: Any) -> dict[str, Any]:
    return {
        "slug": slug,
        "kind": "execute",
        "position": position,
        "detail": "",
        "callSite": SITE,
        **fields,
    }


def finding(what: str, text: str = "", made: Any = (), recorded: Any = ()) -> dict[str, Any]:
    return {**entry(), "what": what, "text": text, "made": made, "recorded": recorded}


def outcome(
    report: dict[str, Any], differences: Any = (), verdict: str = "failed", **fields: Any
) -> Outcome:
    stored = StoredReport(replay_id="r", state="finished", verdict=verdict, report=report)
    return Outcome(200, "", "s", "", True, "r", stored, differences=list(differences), **fields)


def causes(*outcomes: Outcome) -> list[tuple[int, str, str]]:
    results = [
        result_of(f"s-{n}", f"s-{n}", "GET /", each, seconds=0, flows={"f": "acme/p/f"})
        for n, each in enumerate(outcomes)
    ]
    return [(len(each.sessions), each.cause.status, str(each)) for each in grouped(results)]


def test_findings_stand_for_the_calls_that_they_explain() -> None:
    change = {"path": "messages[3].content", "recorded": "a", "sent": "b", "diff": ""}
    drift = [entry(position, changes=[change]) for position in (1, 2)]
    added = {
        "findings": [finding("added", made=[1])],
        "drift": drift,
        "misses": [entry(3)],
        "leftovers": [entry(0, "g")],
    }
    assert causes(outcome(added)) == [(1, "missed", "call 2 of acme/p/f: added at main.py:14")]
    changed = {"findings": [finding("changed", made=[1, 2])], "drift": drift}
    expected = "calls 2, 3 of acme/p/f: messages[*].content differs at main.py:14"
    assert causes(outcome(changed), outcome({"drift": drift})) == [(2, "drifted", expected)]


def test_entries_without_findings_are_causes() -> None:
    report = {
        "leftovers": [entry(4, callSite=None)],
        "lost": [entry()],
        "unread": [entry(0, None, callSite=None)],
        "unordered": [entry()],
    }
    assert causes(outcome(report)) == [
        (1, "missed", "call 5 of acme/p/f: not made"),
        (1, "missed", "call 1 of acme/p/f: made outside of the scope at main.py:14"),
        (1, "missed", "call 1 of another client: could not be fetched"),
        (1, "drifted", "call 1 of acme/p/f: perhaps completed in another order at main.py:14"),
    ]


def test_what_the_app_did_after_a_miss_is_told_in_place_of_the_response() -> None:
    error = {"error": "replay_error", "message": "2 left (The application had responded with 401.)"}
    status = [ResponseDifference("status", 200, 500)]
    assert causes(outcome({}, status, error=error)) == [(1, "missed", "the app responded with 401")]
    unknown = {"error": "replay_error", "message": "call 3 of session s"}
    assert causes(outcome({}, status, error=unknown)) == [(1, "error", "call * of session s")]


def test_exception_that_the_app_turned_into_a_response_is_the_only_cause() -> None:
    error = {"error": "replay_error", "message": "1 left (The application had responded with 500.)"}
    status = [ResponseDifference("status", 200, 500)]
    removed = {"findings": [finding("removed", recorded=[1])], "leftovers": [entry(1)]}
    expected = [(1, "error", "the app responded with 500")]
    assert causes(outcome(removed, status, error=error)) == expected
    # It was captured with this response, so the call itself is missing.
    assert causes(outcome(removed, error=error))[0] == (
        1,
        "missed",
        "call 2 of acme/p/f: removed at main.py:14",
    )


def test_response_fields_are_the_same_cause_in_all_items_and_sessions() -> None:
    found = [
        [ResponseDifference("$.items[2].n", 1, 2), ResponseDifference("$.items[7].n", 1, 2)],
        [ResponseDifference("$.items[0].n", 1, 3), ResponseDifference("$.new", "(missing)", 1)],
        [
            ResponseDifference("event 12, $.gone", 1, "(missing)"),
            ResponseDifference("status", 200, 404),
        ],
    ]
    assert causes(*(outcome({}, each, verdict="clean") for each in found)) == [
        (2, "changed", "$.items[*].n differs"),
        (1, "changed", "$.new is new"),
        (1, "changed", "event *, $.gone is missing"),
        (1, "changed", "status 200 -> 404"),
    ]


def test_exception_is_a_cause_unless_a_call_was_missed() -> None:
    raised = AppException.of(KeyError("name"))
    status = [ResponseDifference("status", 200, 500)]
    failed = outcome({}, status, "clean", exception=raised)
    assert causes(failed) == [(1, "error", "KeyError")]
    # The calls that it did not make follow from it.
    early = outcome({"leftovers": [entry(), entry(1, "g")]}, status, exception=raised)
    assert causes(early) == causes(failed)
    missed = outcome({"misses": [entry()]}, status, exception=raised)
    assert causes(missed) == [(1, "missed", "call 1 of acme/p/f: no recording at main.py:14")]
    assert causes(outcome({}, verdict="clean", exception=raised)) == []  # as it was captured
    assert causes(outcome({}, timed_out=60.0)) == [
        (1, "error", "the app did not respond within 60 seconds")
    ]
