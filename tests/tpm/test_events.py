"""The event log as arithmetic: what leads to which value of the PCR, and every change is seen."""

import hashlib
import json

import pytest

from executor.tpm.errors import LogError
from executor.tpm.events import ZERO, Boot, Replay, canonical, digest_of, extended

BOOT = Boot(15, ZERO, "boot-1", 1, 0, "2026-11-20T00:00:00.000Z")


def log_of(*batches):
    """A log in which all of them were extended, as lines."""
    replay = Replay()
    lines = [canonical(BOOT.record())]
    replay.feed(lines)
    for events in batches:
        intent = replay.next_intent(events)
        lines += [canonical(intent.record()), canonical({"kind": "done", "seq": intent.seq})]
        replay.feed(lines[-2:])
    return lines


def test_a_log_leads_to_the_value_that_extends_lead_to():
    replay = Replay(keep=True)
    replay.feed(log_of([{"pod": "a"}, {"pod": "b"}], [{"pod": "c"}]))
    first = hashlib.sha256(b'[{"pod":"a"},{"pod":"b"}]').digest()
    second = hashlib.sha256(b'[{"pod":"c"}]').digest()
    value = hashlib.sha256(hashlib.sha256(bytes(32) + first).digest() + second).digest()
    assert replay.value == value
    assert [event["pod"] for event in replay.extended] == ["a", "b", "c"]
    assert replay.pending is None


def test_what_was_never_extended_does_not_count():
    replay = Replay(keep=True)
    lines = log_of([{"pod": "a"}])
    replay.feed([*lines[:-1], b'{"kind": "void", "seq": 1}'])
    assert replay.value == ZERO
    assert replay.void == [{"pod": "a"}]


def test_canonical_json_does_not_depend_on_order_or_spelling():
    assert canonical({"b": 1, "a": "ä"}) == b'{"a":"\\u00e4","b":1}'
    assert canonical(json.loads('{"a": "\\u00e4",  "b":1}')) == canonical({"b": 1, "a": "ä"})
    assert canonical({"a": "\udcff"}) == b'{"a":"\\udcff"}'
    assert digest_of([{"a": 1}]) != digest_of([{"a": "1"}])


@pytest.mark.parametrize("value", [1.5, {1: 2}, [b"x"]])
def test_what_has_no_one_form_is_no_event(value):
    with pytest.raises(LogError, match="must not have"):
        canonical(value)


def change(name, to):
    def do(lines):
        record = json.loads(lines[3])
        record[name] = to
        lines[3] = json.dumps(record).encode()

    return do


def drop(number):
    return lambda lines: lines.pop(number)


CHANGES = {
    "another event": (change("events", [{"pod": "evil"}]), "line 4: the digest is not that of the events"),
    "another digest": (change("digest", "0" * 64), "line 4: the digest is not that of the events"),
    "another value": (change("pcr", "0" * 64), "line 4: the PCR's value does not follow"),
    "upper case": (change("pcr", "A" * 64), "line 4: a digest is not 64 lower-case"),
    "no events": (change("events", []), "line 4: events must be a list"),
    "another number": (change("seq", 1), "line 4: record 1 where 2 was expected"),
    "a number that is true": (change("seq", True), "line 4: record True where 2 was expected"),
    "another kind": (change("kind", "maybe"), "line 4: kind 'maybe' is unknown"),
    "a second boot": (
        lambda lines: lines.append(lines[0]),
        "line 6: the log must begin with its boot record",
    ),
    "no boot": (drop(0), "line 1: the log must begin with its boot record"),
    "a missing done": (drop(2), "line 3: nothing says what became of record 1"),
    "a missing intent": (drop(3), "line 4: done of record 2, which is not open"),
    "a fraction": (change("events", [{"pod": 1.5}]), "line 4: an event must not have 1.5"),
    "nonsense": (lambda lines: lines.append(b"}"), "line 6: Expecting value"),
    "no object": (lambda lines: lines.append(b"[]"), "line 6: not an object"),
    "a key twice": (
        lambda lines: lines.append(b'{"kind":"done","kind":"void"}'),
        "line 6: a key appears twice",
    ),
    "no kind": (lambda lines: lines.append(b"{}"), "line 6: no 'kind'"),
    "too deep": (lambda lines: lines.append(b"[" * 100_000), "line 6: "),
    "bytes": (lambda lines: lines.append(b"\xff"), "line 6: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen(name):
    do, message = CHANGES[name]
    lines = log_of([{"pod": "a"}], [{"pod": "b"}])
    do(lines)
    with pytest.raises(LogError, match="event log, ") as caught:
        Replay().feed(lines)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("version", 2), ("bank", "sha1"), ("pcr", "15"), ("base", "00")])
def test_a_boot_record_that_we_do_not_know(name, value):
    record = {**BOOT.record(), name: value}
    with pytest.raises(LogError, match="line 1"):
        Replay().feed([canonical(record)])


def test_extended_is_the_tpms_formula():
    assert extended(ZERO, ZERO) == hashlib.sha256(bytes(64)).digest()
