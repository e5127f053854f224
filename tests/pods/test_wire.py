"""The envelopes between scheduler and executor."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire import Launch, PodEvent, Report, Supply, Wanted, WireError, digest_of

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
EVENT = st.builds(
    PodEvent,
    type=st.sampled_from(["Normal", "Warning"]),
    reason=TEXT,
    message=TEXT,
    container=TEXT,
    time=TEXT,
)


def raw(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


@given(OBJECT, TEXT, TEXT, TEXT, st.lists(OBJECT, max_size=2), OBJECT)
def test_a_launch_comes_back_as_it_was(
    pod: dict[str, Any], node: str, token: str, handler: str, secrets: list[Any], objects: dict[str, Any]
) -> None:
    launch = Launch(pod, node, token, handler, tuple(secrets), objects)
    assert Launch.decode(launch.encode()) == launch


@given(TEXT, OBJECT)
def test_questions_and_answers_about_objects(task_id: str, objects: dict[str, Any]) -> None:
    wanted = Wanted(task_id, digest_of(objects))
    assert Wanted.decode(wanted.encode()) == wanted
    assert digest_of(Supply.decode(Supply(task_id, objects).encode()).objects) == wanted.digest
    assert Supply.decode(Supply(task_id, objects).encode()) == Supply(task_id, objects)
    assert repr(objects) not in repr(Supply(task_id, objects)) or not objects
    with pytest.raises(WireError):
        Wanted.decode(Supply(task_id, objects).encode())
    with pytest.raises(WireError):
        Supply.decode(wanted.encode())


@given(OBJECT, TEXT, st.lists(EVENT, max_size=3))
def test_a_report_comes_back_as_it_was(status: dict[str, Any], server: str, events: list[PodEvent]) -> None:
    report = Report(status=status, server=server, events=tuple(events))
    assert Report.decode(report.encode()) == report


def test_the_launch_envelope_on_the_wire() -> None:
    data = Launch(pod={"kind": "Pod"}, node_name="n1", node_token="t").encode()
    assert json.loads(base64.b64decode(data)) == {
        "version": 1,
        "pod": {"kind": "Pod"},
        "nodeName": "n1",
        "nodeToken": "t",
    }


def test_the_report_envelope_on_the_wire() -> None:
    event = PodEvent("Normal", "Started", "Started container web", "web", "2026-01-02T03:04:05Z")
    data = Report(status={"phase": "Running"}, server="10.0.0.1:31", events=(event,)).encode()
    assert json.loads(base64.b64decode(data)) == {
        "version": 1,
        "status": {"phase": "Running"},
        "server": "10.0.0.1:31",
        "events": [
            {
                "type": "Normal",
                "reason": "Started",
                "message": "Started container web",
                "container": "web",
                "time": "2026-01-02T03:04:05Z",
            }
        ],
    }


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_version_is_refused(version: Any) -> None:
    body = {
        "version": version,
        "pod": {},
        "nodeName": "",
        "nodeToken": "",
        "status": {},
        "server": "",
        "events": [],
    }
    with pytest.raises(WireError, match="version"):
        Launch.decode(raw(body))
    with pytest.raises(WireError, match="version"):
        Report.decode(raw(body))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "not base64 of JSON"),
        ("***", "not base64 of JSON"),
        ("e30", "not base64 of JSON"),
        (raw([1]), "expected an object"),
        (
            raw({"version": 1, "nodeName": "", "nodeToken": ""}),
            r"TaskInfo.data.pod: expected dict, got nothing",
        ),
        (
            raw({"version": 1, "pod": {}, "nodeName": 3, "nodeToken": ""}),
            r"TaskInfo.data.nodeName: expected str",
        ),
    ],
)
def test_a_broken_launch_is_refused_in_one_line(data: str, says: str) -> None:
    with pytest.raises(WireError, match=says) as error:
        Launch.decode(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("events", "says"),
    [
        (["x"], "expected an object, got str"),
        ([{"type": "Bad", "reason": "", "message": "", "container": "", "time": ""}], "Normal or Warning"),
        ([{"type": "Normal", "reason": "", "message": "", "container": ""}], r"events\[\]\.time"),
    ],
)
def test_a_broken_event_is_refused(events: list[Any], says: str) -> None:
    with pytest.raises(WireError, match=says):
        Report.decode(raw({"version": 1, "status": {}, "server": "", "events": events}))
