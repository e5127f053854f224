"""The query parameters of the Kubernetes API, checked: numbers, flags, selectors, options of writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from scheduler.registry.errors import ApiError, BadRequest
from scheduler.registry.resource import Resource
from shared.models.selectors import SelectorError, parse_field_selector, parse_label_selector

Query = Mapping[str, str]
FieldValidation = Literal["Strict", "Warn", "Ignore"]


def number(query: Query, name: str, *, least: int = 0) -> int | None:
    """A whole number; None when absent or empty. Raises BadRequest."""
    text = query.get(name, "")
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise BadRequest(f"query parameter {name}: {text!r} is not a number")
    value = int(text)
    if value < least:
        raise BadRequest(f"query parameter {name}: must be at least {least}, not {value}")
    return value


def flag(query: Query, name: str) -> bool:
    """True or false as apimachinery converts them: present without a value is true."""
    text = query.get(name)
    if text is None:
        return False
    if text.lower() in ("", "1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise BadRequest(f"query parameter {name}: {text!r} is neither true nor false")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What may accompany a create, update or patch."""

    dry_run: bool
    field_validation: FieldValidation

    @classmethod
    def read(cls, query: Query) -> WriteOptions:
        validation = query.get("fieldValidation") or "Warn"
        if validation not in ("Strict", "Warn", "Ignore"):
            raise BadRequest(
                f"query parameter fieldValidation: {validation!r} is none of Strict, Warn, Ignore"
            )
        return cls(dry_run(query.get("dryRun")), cast("FieldValidation", validation))


def dry_run(text: str | None) -> bool:
    """BadRequest for anything but All and nothing."""
    if text in (None, ""):
        return False
    if text != "All":
        raise BadRequest(f"dryRun: {text!r} is not supported, only All is")
    return True


class Selection:
    """labelSelector and fieldSelector of a request, as one filter."""

    def __init__(self, resource: Resource, query: Query) -> None:
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        try:
            self._labels = parse_label_selector(labels)
        except SelectorError as error:
            raise BadRequest(str(error)) from None
        self._fields = resource.field_matcher(fields)
        self.everything = not (labels.strip() or fields.strip())
        self.text = (labels, fields)
        self.name = parse_field_selector(fields).exact("metadata.name")
        """The one name the selection is cut to, if it is."""

    def matches(self, obj: dict[str, Any]) -> bool:
        return self.everything or (self._labels.matches(obj["metadata"].get("labels")) and self._fields(obj))


def version_too_large(wanted: int, version: int) -> ApiError:
    """The 504 by which client-go's reflector knows to list anew."""
    message = f"Too large resource version: {wanted}, current: {version}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    details = {"causes": causes, "retryAfterSeconds": 1}
    return ApiError(504, "Timeout", f"Timeout: {message}", details)
