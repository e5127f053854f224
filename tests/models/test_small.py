"""Times, conditions, ids."""

from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest

from shared.models.conditions import find_condition, is_true, set_condition
from shared.models.ids import generated_name, parse_task_id, task_id
from shared.models.times import parse_time, rfc3339, rfc3339_micro

NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


def test_times_are_utc_text():
    assert rfc3339(NOON) == "2024-05-01T12:00:00Z"
    assert rfc3339_micro(NOON) == "2024-05-01T12:00:00.123456Z"
    assert rfc3339(NOON.astimezone(timezone(timedelta(hours=2)))) == "2024-05-01T12:00:00Z"


@pytest.mark.parametrize(
    "text",
    ["2024-05-01T12:00:00.123456Z", "2024-05-01T12:00:00.123456789Z", "2024-05-01T14:00:00.123456+02:00"],
)
def test_times_are_read_back(text):
    assert parse_time(text) == NOON


def test_a_short_fraction_is_a_fraction():
    assert parse_time("2024-05-01T12:00:00.5Z").microsecond == 500_000


@pytest.mark.parametrize("text", ["", "yesterday", "2024-05-01T12:00:00"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError):
        parse_time(text)


def test_a_conditions_time_moves_only_with_its_status():
    first = set_condition(None, "Ready", "False", NOON, reason="Waiting", message="for it")
    same = set_condition(first, "Ready", "False", LATER, reason="StillWaiting")
    other = set_condition(same, "Ready", "True", LATER)
    assert same == [
        {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(NOON), "reason": "StillWaiting"}
    ]
    assert other == [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(LATER)}]
    assert first[0]["reason"] == "Waiting"


def test_conditions_are_found():
    conditions = set_condition([{"type": "A", "status": "True"}], "B", "False", NOON)
    assert [one["type"] for one in conditions] == ["A", "B"]
    assert is_true(conditions, "A")
    assert not is_true(conditions, "B")
    assert not is_true(None, "A")
    assert find_condition(conditions, "C") is None


def test_generated_names_are_labels():
    assert generated_name("web-", Random(1)).startswith("web-")
    assert len(generated_name("x" * 100, Random(1))) == 63
    assert generated_name("a-", Random(1)) != generated_name("a-", Random(2))


def test_task_ids_go_both_ways():
    assert parse_task_id(task_id("1b2c-3d", 4)) == ("1b2c-3d", 4)


@pytest.mark.parametrize("text", ["", "abc", ".1", "abc.", "abc.x", "abc.-1", "abc.²"])
def test_foreign_task_ids_are_refused(text):
    with pytest.raises(ValueError, match="not a task id"):
        parse_task_id(text)
