"""JSON Patch: the examples of RFC 6902's appendix A, and its refusals."""

import copy

import pytest

from scheduler.api.jsonpatch import PatchFailed, PatchMalformed, apply


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        (
            {"foo": ["bar", "baz"]},
            [{"op": "add", "path": "/foo/1", "value": "q"}],
            {"foo": ["bar", "q", "baz"]},
        ),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        ({"l": [1, 2]}, [{"op": "replace", "path": "/l/0", "value": 9}], {"l": [9, 2]}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "qux"}], {"baz": "qux"}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["x"]}], {"foo": ["bar", ["x"]]}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a/b": 1}, [{"op": "replace", "path": "/a~1b", "value": 2}], {"a/b": 2}),
        ({"foo": None}, [{"op": "replace", "path": "/foo", "value": 1}], {"foo": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a": 1.0}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1.0}),
    ],
)
def test_applies(document, patch, expected):
    assert apply(copy.deepcopy(document), patch) == expected


@pytest.mark.parametrize(
    ("document", "operation", "message"),
    [
        (
            {"baz": "qux"},
            {"op": "test", "path": "/baz", "value": "bar"},
            r"operation 0 \(test /baz\): the value differs",
        ),
        ({"a": 1}, {"op": "test", "path": "/a", "value": True}, "differs"),
        ({"a": "1"}, {"op": "test", "path": "/a", "value": 1}, "differs"),
        ({"foo": "bar"}, {"op": "add", "path": "/baz/bat", "value": "q"}, "there is no 'baz'"),
        ({"foo": "bar"}, {"op": "remove", "path": "/nope"}, "there is no 'nope'"),
        ({"l": [1]}, {"op": "add", "path": "/l/2", "value": 1}, "index 2 is beyond the list of 1"),
        ({"l": [1]}, {"op": "remove", "path": "/l/01"}, "'01' is not an index"),
        ({"l": [1]}, {"op": "replace", "path": "/l/-", "value": 1}, "'-' is not an index"),
        ({"l": [1]}, {"op": "add", "path": "/l/0/x", "value": 1}, "neither object nor list"),
        ({"a": {"b": 1}}, {"op": "move", "from": "/a", "path": "/a/c"}, "into itself"),
    ],
)
def test_does_not_apply(document, operation, message):
    with pytest.raises(PatchFailed, match=message):
        apply(document, [operation])


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"op": "add"}, "list of operations"),
        (["x"], "operation 0: must be an object"),
        ([{"op": "add", "path": "/a"}], "add needs a value"),
        ([{"op": "explode", "path": "/a"}], "unknown op 'explode'"),
        ([{"op": "remove", "path": "a"}], "must be a JSON pointer"),
        ([{"op": "move", "path": "/a"}], "from must be a JSON pointer"),
        ([{"op": "remove", "path": "/a"}] * 10_001, "at most 10000"),
    ],
)
def test_is_no_patch(patch, message):
    with pytest.raises(PatchMalformed, match=message):
        apply({"a": 1}, patch)
