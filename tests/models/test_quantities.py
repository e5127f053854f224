"""Quantities: value, canonical form, refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.models.quantities import (
    QuantityError,
    canonical_quantity,
    cpu_millis,
    format_quantity,
    parse_quantity,
    quantity_bytes,
)


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("0", 0, "0"),
        ("0Mi", 0, "0"),
        ("0.5", Fraction(1, 2), "500m"),
        (".5", Fraction(1, 2), "500m"),
        ("5.", 5, "5"),
        ("+1", 1, "1"),
        ("1000m", 1, "1"),
        ("1500m", Fraction(3, 2), "1500m"),
        ("1000", 1000, "1k"),
        ("1500", 1500, "1500"),
        ("1024Ki", 1024**2, "1Mi"),
        ("1.5Gi", 1536 * 1024**2, "1536Mi"),
        ("1.5Ki", 1536, "1536"),
        ("0.5Ki", 512, "512"),
        ("128974848", 128974848, "128974848"),
        ("129e6", 129 * 10**6, "129e6"),
        ("100e3", 10**5, "100e3"),
        ("1E3", 1000, "1e3"),
        ("1E", 10**18, "1E"),
        ("1Ei", 2**60, "1Ei"),
        ("100n", Fraction(1, 10**7), "100n"),
        ("1u", Fraction(1, 10**6), "1u"),
        ("0.1n", Fraction(1, 10**9), "1n"),
        ("-500m", Fraction(-1, 2), "-500m"),
        ("-0.1n", Fraction(-1, 10**9), "-1n"),
        ("100Ei", 2**63 - 1, "9223372036854775807"),
        ("1e999999999", 2**63 - 1, "9223372036854775807e0"),
        (2, 2, "2"),
        (0.25, Fraction(1, 4), "250m"),
    ],
)
def test_values_and_canonical_forms(text, value, canonical):
    assert parse_quantity(text) == value
    if canonical.endswith("e0"):
        canonical = canonical.removesuffix("e0")
    assert canonical_quantity(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "1x", "m", "1 Gi", "1gi", "1.2.3", "0x10", "--1", "1e", "1Mie3", "Ki", "٣", "1" * 5000]
)
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(QuantityError, match="quantities must"):
        parse_quantity(text)


def test_a_bool_is_no_number():
    with pytest.raises(QuantityError, match="string or a number"):
        parse_quantity(True)


def test_units_round_up():
    assert cpu_millis("0.1") == 100
    assert cpu_millis("1u") == 1
    assert quantity_bytes("100m") == 1
    assert quantity_bytes("1Ki") == 1024


@given(st.fractions(min_value=-(2**62), max_value=2**62, max_denominator=10**9))
def test_canonical_text_reads_back_as_the_same_value(value):
    text = format_quantity(value)
    again = parse_quantity(text)
    assert abs(again - value) <= Fraction(1, 10**9)
    assert canonical_quantity(text) == text
