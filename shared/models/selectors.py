"""Label and field selectors: text or JSON -> something that says whether an object matches.

Grammar: apimachinery's `pkg/labels/selector.go` and `pkg/fields/selector.go`. Not here: which fields a
resource offers (scheduler/registry).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
_OPERATORS: dict[str, Operator] = {one: one for one in get_args(Operator)}

LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEY_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


class SelectorError(ValueError):
    """A selector that does not parse; the message says where."""


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One term. `values` is empty for Exists and DoesNotExist, one integer's text for Gt and Lt."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        present = self.key in labels
        match self.operator:
            case "In":
                return present and labels[self.key] in self.values
            case "NotIn":
                return not present or labels[self.key] not in self.values
            case "Exists":
                return present
            case "DoesNotExist":
                return not present
            case "Gt" | "Lt":
                return present and self._compare(labels[self.key])

    def _compare(self, text: str) -> bool:
        bound = next(iter(self.values))
        if not _is_integer(text) or not _is_integer(bound):  # int() would take "1_0"
            return False
        return int(text) > int(bound) if self.operator == "Gt" else int(text) < int(bound)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all matches everything."""

    requirements: tuple[LabelRequirement, ...] = ()

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return all(one.matches(labels or {}) for one in self.requirements)

    @staticmethod
    def from_json(selector: Mapping[str, Any] | None) -> LabelSelector | None:
        """`{matchLabels, matchExpressions}`; None (matches nothing) stays None. Raises SelectorError."""
        if selector is None:
            return None
        terms = [
            LabelRequirement(key, "In", frozenset([value]))
            for key, value in (selector.get("matchLabels") or {}).items()
        ]
        terms += [requirement_from_json(one) for one in selector.get("matchExpressions") or ()]
        return LabelSelector(tuple(terms))


def requirement_from_json(expression: Mapping[str, Any]) -> LabelRequirement:
    """`{key, operator, values}` of a label or node selector. Raises SelectorError."""
    values = frozenset(expression.get("values") or ())
    operator = _OPERATORS.get(expression.get("operator") or "")
    if operator is None:
        raise SelectorError(f'"{expression.get("operator") or ""}" is not a valid label selector operator')
    return _requirement(expression.get("key") or "", operator, values)


@lru_cache(maxsize=1024)
def parse_label_selector(text: str) -> LabelSelector:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`. Empty text matches everything. Raises SelectorError."""
    return LabelSelector(tuple(_LabelParser(text).parse()))


class _LabelParser:
    """Recursive descent over the token list of one selector."""

    _TOKEN = re.compile(r"\s*(?:(?P<op>==|!=|=|!|\(|\)|,|>|<)|(?P<word>[^\s=!(),<>]+))")

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            match = self._TOKEN.match(text, at)
            if match is None:  # the two alternatives cover every character
                raise self._error(f"unexpected {text[at]!r}")
            self._tokens.append(match.group("op") or match.group("word"))
            at = match.end()
        self._at = 0

    def parse(self) -> list[LabelRequirement]:
        found: list[LabelRequirement] = []
        if not self._tokens:
            return found
        while True:
            found.append(self._one())
            token = self._next()
            if token == "":
                return found
            if token != ",":
                raise self._error(f"found '{token}', expected: ',' or 'end of string'")
            if self._peek() == "":
                raise self._error("found '', expected: identifier after ','")

    def _one(self) -> LabelRequirement:
        if self._peek() == "!":
            self._next()
            return self._make(self._word(), "DoesNotExist", frozenset())
        key = self._word()
        token = self._peek()
        if token in ("", ","):
            return self._make(key, "Exists", frozenset())
        self._next()
        match token:
            case "=" | "==":
                return self._make(key, "In", frozenset([self._value()]))
            case "!=":
                return self._make(key, "NotIn", frozenset([self._value()]))
            case ">" | "<":
                return self._make(key, "Gt" if token == ">" else "Lt", frozenset([self._value()]))
            case "in" | "notin":
                return self._make(key, "In" if token == "in" else "NotIn", self._values())
        raise self._error(f"found '{token}', expected: in, notin, =, ==, !=, gt, lt")

    def _make(self, key: str, operator: Operator, values: frozenset[str]) -> LabelRequirement:
        try:
            return _requirement(key, operator, values)
        except SelectorError as error:
            raise self._error(str(error)) from None

    def _values(self) -> frozenset[str]:
        if self._next() != "(":
            raise self._error("expected: '(' after in or notin")
        values = {self._value()}
        while True:
            match self._next():
                case ")":
                    return frozenset(values)
                case ",":
                    values.add(self._value())
                case token:
                    raise self._error(f"found '{token}', expected: ',' or ')'")

    def _word(self) -> str:
        token = self._next()
        if token in ("", "=", "==", "!=", "!", "(", ")", ",", ">", "<"):
            raise self._error(f"found '{token}', expected: identifier")
        return token

    def _value(self) -> str:
        return "" if self._peek() in ("", ",", ")") else self._word()

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _error(self, why: str) -> SelectorError:
        return SelectorError(f"unable to parse requirement: {why} (in {self._text!r})")


def _requirement(key: str, operator: Operator, values: frozenset[str]) -> LabelRequirement:
    prefix, slash, name = key.rpartition("/")
    if not _KEY_NAME.fullmatch(name) or (slash and not _is_subdomain(prefix)):
        raise SelectorError(f'key: Invalid value: "{key}": not a qualified label name')
    if operator in ("In", "NotIn") and not values:
        raise SelectorError(
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
        )
    if operator in ("Exists", "DoesNotExist") and values:
        raise SelectorError("values: Invalid value: values set must be empty for exists and does not exist")
    if operator in ("Gt", "Lt") and (len(values) != 1 or not _is_integer(next(iter(values)))):
        raise SelectorError("values: Invalid value: for 'Gt', 'Lt' operators, the value must be an integer")
    for value in values:
        if not LABEL_VALUE.fullmatch(value):
            raise SelectorError(f'values: Invalid value: "{value}": not a valid label value')
    return LabelRequirement(key, operator, values)


def _is_subdomain(text: str) -> bool:
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", text) is not None


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """`field=value` or, when not `equal`, `field!=value`."""

    field: str
    value: str
    equal: bool = True


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All requirements must hold; none at all matches everything."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, get: Callable[[str], str]) -> bool:
        """`get` gives a field's text ("" when it is not set)."""
        return all((get(one.field) == one.value) is one.equal for one in self.requirements)

    def exact(self, field: str) -> str | None:
        """The value the selector demands of `field`, if any: `exact("metadata.name")` finds one object."""
        return next((one.value for one in self.requirements if one.equal and one.field == field), None)


@lru_cache(maxsize=1024)
def parse_field_selector(text: str) -> FieldSelector:
    r"""`a.b=c,d!=e`; backslash escapes `,`, `=` and itself in values. Raises SelectorError."""
    found: list[FieldRequirement] = []
    for term in re.findall(r"(?:\\.|[^,\\]|\\$)+", text):
        match = re.fullmatch(r"([^=!]+)(!=|==|=)(.*)", term.strip(), re.DOTALL)
        if match is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{term}'")
        value = _unescape(match.group(3), text)
        found.append(FieldRequirement(match.group(1).strip(), value, match.group(2) != "!="))
    return FieldSelector(tuple(found))


def _unescape(value: str, selector: str) -> str:
    if re.search(r"(?<!\\)(?:\\\\)*=", value) or re.search(r"\\(?![\\,=])", value):
        raise SelectorError(
            f"invalid selector: '{selector}'; escape ',', '=' and '\\' in values with a backslash"
        )
    return re.sub(r"\\([\\,=])", r"\1", value)
