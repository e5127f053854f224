"""Kubernetes quantities: "500m", "1Gi", "1e3": parse, compare, print in canonical form.

Rules: apimachinery's `pkg/api/resource/quantity.go`. Values are exact (`Fraction`); finer than nano is
rounded up, away from zero, as there. Not here: which resources exist and what may be asked of them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Literal

Format = Literal["DecimalSI", "BinarySI", "DecimalExponent"]

PATTERN = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<digits>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE][+-]?[0-9]{1,9})"
)
_BINARY = {name: 1024**power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO = 10**9
_LONGEST = 128
_LARGEST = 2**63 - 1
"""Quantities are capped here, as in Kubernetes (`maxAllowed`)."""


class QuantityError(ValueError):
    """Not a quantity; the message is Kubernetes' own."""


def parse_quantity(value: str | int | float) -> Fraction:
    """The exact value; numbers are taken as their decimal text. Raises QuantityError."""
    return _parse(value if isinstance(value, str) else _number_text(value))[0]


def canonical_quantity(value: str | int | float) -> str:
    """The form kube-apiserver stores: "0.5" -> "500m", "1024Ki" -> "1Mi", "1000m" -> "1"."""
    return _canonical(value if isinstance(value, str) else _number_text(value))


def format_quantity(value: Fraction | int, form: Format = "DecimalSI") -> str:
    """The canonical text of a value: no fraction digits, the largest suffix that keeps it exact."""
    exact = _to_nano(Fraction(value))
    if exact == 0:
        return "0"
    if form == "BinarySI":
        if abs(exact) >= 1024 and exact.denominator == 1:
            whole, name = exact.numerator, ""
            for suffix in _BINARY:
                if whole % 1024:
                    break
                whole, name = whole // 1024, suffix
            return f"{whole}{name}"
        form = "DecimalSI"
    nanos = int(exact * _NANO)
    exponent = -9
    while nanos % 1000 == 0 and exponent < 18:
        nanos, exponent = nanos // 1000, exponent + 3
    if form == "DecimalExponent":
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_SUFFIX_OF[exponent]}"


def cpu_millis(value: str | int | float) -> int:
    """Cores -> thousandths of a core, rounded up: "0.5" -> 500."""
    return ceil(parse_quantity(value) * 1000)


def quantity_bytes(value: str | int | float) -> int:
    """Bytes (or any whole unit), rounded up: "1Ki" -> 1024."""
    return ceil(parse_quantity(value))


_SUFFIX_OF = {exponent: suffix for suffix, exponent in _DECIMAL.items()}


def _number_text(value: int | float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuantityError(f"quantities must be a string or a number, not {value!r}")
    return repr(value)


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Fraction, Format]:
    if not text:
        raise QuantityError("quantities must not be empty")
    if len(text) > _LONGEST:
        raise QuantityError(f"quantities must be no longer than {_LONGEST} characters")
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise QuantityError(f"quantities must match the regular expression '{PATTERN}'")
    sign, digits, suffix = match.group("sign", "digits", "suffix")
    number = Fraction(digits if not digits.endswith(".") else digits[:-1])
    form: Format
    if suffix in _BINARY:
        number, form = number * _BINARY[suffix], "BinarySI"
    elif suffix in _DECIMAL:
        number, form = number * Fraction(10) ** _DECIMAL[suffix], "DecimalSI"
    else:
        power = int(suffix[1:])
        # Outside this range every value is 0 rounded up or the cap; a huge power must not be computed.
        number, form = number * Fraction(10) ** max(-64, min(64, power)), "DecimalExponent"
    number = _to_nano(min(number, Fraction(_LARGEST)))
    return (-number if sign == "-" else number), form


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    value, form = _parse(text)
    return format_quantity(value, form)


def _to_nano(value: Fraction) -> Fraction:
    scaled = value * _NANO
    if scaled.denominator == 1:
        return value
    return Fraction(ceil(scaled) if scaled > 0 else -ceil(-scaled), _NANO)
