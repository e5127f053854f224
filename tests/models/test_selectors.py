"""Label and field selectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.models.selectors import (
    LabelSelector,
    SelectorError,
    parse_field_selector,
    parse_label_selector,
    requirement_from_json,
)

LABELS = {"app": "web", "tier": "front", "example.com/size": "10", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        ("app=db", False),
        ("app!=web", False),
        ("app!=db", True),
        ("nope!=db", True),
        ("app", True),
        ("nope", False),
        ("!nope", True),
        ("! app", False),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db)", True),
        ("nope notin (db)", True),
        ("app notin (db,web)", False),
        ("app = web , tier=front", True),
        ("app=web,tier=back", False),
        ("example.com/size>9", True),
        ("example.com/size<9", False),
        ("app>1", False),
        ("empty=", True),
        ("app=", False),
        ("app in (,web)", True),
        ("in in (in)", False),
    ],
)
def test_label_selectors(selector, matches):
    assert parse_label_selector(selector).matches(LABELS) is matches


@pytest.mark.parametrize(
    "selector",
    [
        "=a",
        "a=b,",
        ",",
        "a in b",
        "a in (b",
        "a in (b c)",
        "a b",
        "a=b=c",
        "a=b c",
        "a>x",
        "a>1,b<",
        "-a",
        "a/",
        "!",
        "a=-b",
        f"{'a' * 254}/b",
        "a in ()x",
    ],
)
def test_bad_label_selectors_say_so(selector):
    with pytest.raises(SelectorError, match="unable to parse requirement"):
        parse_label_selector(selector)


def test_no_labels_are_like_empty_ones():
    assert parse_label_selector("!a").matches(None)
    assert not parse_label_selector("a").matches(None)


def test_selectors_of_the_api():
    selector = LabelSelector.from_json(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}],
        }
    )
    assert selector.matches(LABELS)
    assert not selector.matches({"app": "web"})
    assert LabelSelector.from_json({}).matches({})
    assert LabelSelector.from_json(None) is None


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Is"},
        {"key": "a"},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "Gt", "values": ["x"]},
        {"key": "a", "operator": "Gt", "values": ["1", "2"]},
        {"key": "", "operator": "Exists"},
        {"key": "Up/a", "operator": "Exists"},
    ],
)
def test_bad_expressions_are_refused(expression):
    with pytest.raises(SelectorError):
        requirement_from_json(expression)


def test_field_selectors():
    fields = {"metadata.name": "web", "status.phase": "Running", "odd": "a,b=c"}
    assert parse_field_selector("").matches(fields.__getitem__)
    assert parse_field_selector("metadata.name=web,status.phase!=Failed").matches(fields.__getitem__)
    assert not parse_field_selector("metadata.name!=web").matches(fields.__getitem__)
    assert parse_field_selector(r"odd==a\,b\=c").matches(fields.__getitem__)
    assert parse_field_selector("metadata.name=web").exact("metadata.name") == "web"
    assert parse_field_selector("metadata.name!=web").exact("metadata.name") is None
    assert parse_field_selector("spec.nodeName=").requirements[0].value == ""


@pytest.mark.parametrize("selector", ["a", "=b", "a=b=c", r"a=\b", "a=b,c"])
def test_bad_field_selectors_say_so(selector):
    with pytest.raises(SelectorError, match="invalid selector"):
        parse_field_selector(selector)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused(text):
    for parse in (parse_label_selector, parse_field_selector):
        try:
            parse(text)
        except SelectorError as error:
            assert text in str(error) or repr(text) in str(error)  # noqa: PT017 - any other exception fails
