"""Bodies: YAML as Kubernetes reads it, places of errors, limits, the protobuf envelope."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.api.body import parse_json, parse_yaml
from scheduler.api.protobuf import parse_protobuf
from scheduler.registry.decode import duplicate_fields
from scheduler.registry.errors import BadRequest


def test_json_error_names_line_and_column():
    with pytest.raises(BadRequest, match=r"not valid JSON: line 3 column 10"):
        parse_json(b'{\n  "kind": "Pod",\n  "spec" }\n}')


def test_json_nested_too_deeply():
    with pytest.raises(BadRequest, match="nested more than 200 levels"):
        parse_json(b"[" * 300 + b"]" * 300)


def test_json_duplicates_are_named():
    data, twice = parse_json(b'{"a": [{"b": 1, "b": 2}], "c": 1, "c": 3}')
    assert data == {"a": [{"b": 2}], "c": 3}
    assert sorted(twice) == ["a[0].b", "c"]


def test_yaml_error_names_line_and_column():
    with pytest.raises(BadRequest, match=r"not valid YAML: line 3 column 4: could not find expected ':'"):
        parse_yaml(b"kind: Pod\nspec\n  x: 1\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("-7", -7),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("100m", "100m"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_scalars(text, value):
    data, _ = parse_yaml(f"a: {text}\n".encode())
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_yaml_keys_become_strings_and_duplicates_are_named():
    data, twice = parse_yaml(b"1: a\ntrue: b\nx: 1\nx: 2\n")
    assert data == {"1": "a", "true": "b", "x": 2}
    assert twice == ["x"]


def test_yaml_merge_keys():
    data, twice = parse_yaml(b"base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\n")
    assert data["other"] == {"x": 1, "y": 3}
    assert twice == []


def test_yaml_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(BadRequest, match="more than 500000 values"):
        parse_yaml("\n".join(lines).encode())


def test_yaml_that_contains_itself_is_refused():
    with pytest.raises(BadRequest, match="nested more than"):
        parse_yaml(b"a: &a\n  b: *a\n")


def test_yaml_of_two_documents_is_refused():
    with pytest.raises(BadRequest, match=r"line 2 column 1.*another document"):
        parse_yaml(b"a: 1\n---\nb: 2\n")


def test_yaml_tags_make_no_objects():
    with pytest.raises(BadRequest, match="could not determine a constructor"):
        parse_yaml(b"!!python/object/apply:os.system [id]\n")


@pytest.mark.parametrize("text", ['"\\ud800"', "!!binary AA==", "!!set {x}", "18446744073709551616"])
def test_yaml_that_json_cannot_hold(text):
    with pytest.raises(BadRequest, match="it holds what JSON cannot"):
        parse_yaml(f"a: {text}\n".encode())


def test_yaml_aliases_are_copies():
    data, _ = parse_yaml(b"a: &x {k: 1}\nb: *x\n")
    assert data["a"] == data["b"]
    assert data["a"] is not data["b"]


def test_yaml_that_is_not_text():
    with pytest.raises(BadRequest, match="not valid YAML"):
        parse_yaml(b"a: \xff\xfe\x00")


def envelope(api_version: bytes, kind: bytes, raw: bytes) -> bytes:
    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


def test_protobuf_eviction():
    # metadata {name: "web", labels: {a: b}}, deleteOptions {gracePeriodSeconds: -1, dryRun: [All]}
    metadata = b"\x0a\x03web\x5a\x06\x0a\x01a\x12\x01b"
    options = b"\x08" + b"\xff" * 9 + b"\x01" + b"\x2a\x03All"
    raw = b"\x0a" + bytes([len(metadata)]) + metadata + b"\x12" + bytes([len(options)]) + options
    assert parse_protobuf(envelope(b"policy/v1", b"Eviction", raw)) == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "deleteOptions": {"gracePeriodSeconds": -1, "dryRun": ["All"]},
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "does not begin with 'k8s'"),
        (envelope(b"v1", b"Node", b""), "v1 Node is not taken as protobuf; send it as application/json"),
        (envelope(b"v1", b"Namespace", b"\x0a\x09x"), "cut off"),
        (envelope(b"v1", b"Namespace", b"\x9a\x06\x00"), "unknown field 99"),
        (envelope(b"v1", b"Namespace", b"\x08\x01"), "a number stands where bytes should"),
        (envelope(b"v1", b"Namespace", b"\x0f"), "wire type 7"),
        (envelope(b"v1", b"Namespace", b"\xff" * 11), "too long"),
    ],
)
def test_protobuf_that_is_not(body, message):
    with pytest.raises(BadRequest, match=message):
        parse_protobuf(body)


JSON_TEXTS = st.recursive(
    st.sampled_from(['"a"', '"\\""', '"\\u0022"', "1", "null", '"ä"', '""']),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda many: "[" + ", ".join(many) + "]"),
        st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '""']), inner), max_size=4).map(
            lambda many: "{" + ", ".join(f"{key}: {value}" for key, value in many) + "}"
        ),
    ),
    max_leaves=12,
)


@given(JSON_TEXTS)
def test_keys_that_stand_twice_are_found_however_they_are_looked_for(text: str) -> None:
    assert parse_json(text.encode())[1] == duplicate_fields(text)
