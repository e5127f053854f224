import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.mesos.durations import duration_from_json, duration_to_json, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2mins", 120),
        ("30secs", 30),
        ("500ms", 0.5),
        ("1.5hrs", 5400),
        ("1weeks", 604800),
        ("10days", 864000),
    ],
)
def test_text(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(120, "2mins"), (90, "90secs"), (5400, "90mins"), (0.5, "500ms"), (864000, "10days"), (0, "0ns"),
     (1e-6, "1us"), (61.5, "1.025mins")],
)  # fmt: skip
def test_the_unit_is_the_one_mesos_chooses(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("text", ["", "2", "mins", "2 mins", "2min", "2m", "1e30weeks", "abcsecs"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_milliseconds_survive_text_and_json(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)
    assert duration_from_json(duration_to_json(seconds)) == pytest.approx(seconds, rel=1e-12)


def test_json() -> None:
    assert duration_from_json({"nanoseconds": 30000000000}) == 30
    assert duration_to_json(5) == {"nanoseconds": 5000000000}
    with pytest.raises(ValueError, match="needs an integer 'nanoseconds'"):
        duration_from_json({"seconds": 5})
