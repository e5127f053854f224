"""Errors of the Kubernetes API and how each becomes a v1 Status.

Wording, codes and reasons follow apimachinery's `pkg/api/errors` and `util/validation/field`, because clients
(kubectl above all) match on them. What is not here: HTTP. The api room turns an `ApiError` into a response.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AlreadyExists",
    "ApiError",
    "BadRequest",
    "Conflict",
    "Expired",
    "FieldError",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotAvailable",
    "NotFound",
    "ServiceUnavailable",
    "Timeout",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedMediaType",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: `field` is a path such as `spec.containers[0].image`.

    `reason` is a Kubernetes CauseType (FieldValueInvalid ...); `message` already starts with its kind
    ("Invalid value: ..."), as in a cause of a Status.
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def to_cause(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    @staticmethod
    def required(field: str, detail: str = "") -> FieldError:
        return FieldError(field, "FieldValueRequired", _with("Required value", detail))

    @staticmethod
    def invalid(field: str, value: object, detail: str) -> FieldError:
        return FieldError(field, "FieldValueInvalid", _with(f"Invalid value: {show(value)}", detail))

    @staticmethod
    def not_supported(field: str, value: object, supported: Iterable[str]) -> FieldError:
        """`value` is none of `supported` (listed sorted, as kube-apiserver does)."""
        values = ", ".join(show(one) for one in sorted(supported))
        detail = f"supported values: {values}" if values else ""
        return FieldError(field, "FieldValueNotSupported", _with(f"Unsupported value: {show(value)}", detail))

    @staticmethod
    def forbidden(field: str, detail: str) -> FieldError:
        return FieldError(field, "FieldValueForbidden", _with("Forbidden", detail))

    @staticmethod
    def duplicate(field: str, value: object) -> FieldError:
        return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {show(value)}")

    @staticmethod
    def not_found(field: str, value: object) -> FieldError:
        return FieldError(field, "FieldValueNotFound", f"Not found: {show(value)}")

    @staticmethod
    def too_long(field: str, limit: int) -> FieldError:
        return FieldError(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def show(value: object) -> str:
    """A value as it stands in an error: strings quoted, everything else as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _with(head: str, detail: str) -> str:
    return f"{head}: {detail}" if detail else head


class ApiError(Exception):
    """What a client is told: HTTP `code`, machine `reason`, one-line `message`, `details` of the Status."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def to_status(self) -> dict[str, Any]:
        """The v1 Status object, as kube-apiserver would send it."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


def _details(group: str, kind: str, name: str = "", **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "group": group, "kind": kind, **more}
    return {key: value for key, value in details.items() if value}


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


class BadRequest(ApiError):
    """400: the request cannot be understood (malformed body, wrong type of a field, bad query parameter)."""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(400, "BadRequest", message, details)


class Unauthorized(ApiError):
    """401: no or wrong credentials."""

    def __init__(self, message: str = "Unauthorized") -> None:
        super().__init__(401, "Unauthorized", message)


class Forbidden(ApiError):
    """403: understood and refused. `resource` is the plural name."""

    def __init__(self, resource: str, name: str, why: str, *, group: str = "") -> None:
        subject = f'{_qualified(resource, group)} "{name}"' if name else _qualified(resource, group)
        super().__init__(403, "Forbidden", f"{subject} is forbidden: {why}", _details(group, resource, name))


class NotFound(ApiError):
    """404: the named object; without a name, the path is unknown to this server."""

    def __init__(self, resource: str = "", name: str = "", *, group: str = "") -> None:
        if resource:
            message = f'{_qualified(resource, group)} "{name}" not found'
        else:
            message = "the server could not find the requested resource"
        super().__init__(404, "NotFound", message, _details(group, resource, name))


class MethodNotAllowed(ApiError):
    """405: `verb` (create, delete ...) is not offered for this resource."""

    def __init__(self, verb: str, resource: str = "", *, group: str = "") -> None:
        if resource:
            message = f'{verb} is not supported on resources of kind "{_qualified(resource, group)}"'
        else:
            message = "the server does not allow this method on the requested resource"
        super().__init__(405, "MethodNotAllowed", message, _details(group, resource))


class NotAvailable(ApiError):
    """501: Kubernetes has this subresource and Gantry does not, yet."""

    def __init__(self, subresource: str, resource: str, name: str, *, group: str = "") -> None:
        message = f"{_qualified(resource, group)}/{subresource} is not supported by Gantry yet"
        super().__init__(501, "NotImplemented", message, _details(group, resource, name))


class NotAcceptable(ApiError):
    """406: none of the media types the client accepts is offered."""

    def __init__(self, offered: Sequence[str]) -> None:
        listed = ", ".join(offered)
        super().__init__(406, "NotAcceptable", f"only the following media types are accepted: {listed}")


class AlreadyExists(ApiError):
    """409: create of a name that is taken."""

    def __init__(self, resource: str, name: str, *, group: str = "", why: str = "already exists") -> None:
        message = f'{_qualified(resource, group)} "{name}" {why}'
        super().__init__(409, "AlreadyExists", message, _details(group, resource, name))


class Conflict(ApiError):
    """409: the object changed since the client read it, or a precondition does not hold."""

    STALE = "the object has been modified; please apply your changes to the latest version and try again"

    def __init__(self, resource: str, name: str, why: str = STALE, *, group: str = "") -> None:
        message = f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {why}'
        super().__init__(409, "Conflict", message, _details(group, resource, name))


class Gone(ApiError):
    """410: it was here and will not come back."""

    def __init__(self, message: str) -> None:
        super().__init__(410, "Gone", message)


class Expired(ApiError):
    """410: the resourceVersion or continue token is older than the history; the client lists again."""

    def __init__(self, message: str = "The resourceVersion for the provided watch is too old.") -> None:
        super().__init__(410, "Expired", message)


class TooLarge(ApiError):
    """413: the request body is larger than `limit` bytes, or the object it makes is larger than the store can keep."""

    def __init__(self, limit: int, why: str = "") -> None:
        message = f"Request entity too large: {why or f'limit is {limit}'}"
        super().__init__(413, "RequestEntityTooLarge", message)


class UnsupportedMediaType(ApiError):
    """415: the body's content type; `offered` are the ones we read."""

    def __init__(self, offered: Sequence[str]) -> None:
        listed = ", ".join(offered)
        message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
        super().__init__(415, "UnsupportedMediaType", message)


class Invalid(ApiError):
    """422: the object is understood and wrong; every cause names its field. `kind` is the object's kind."""

    def __init__(self, kind: str, name: str, causes: Sequence[FieldError], *, group: str = "") -> None:
        self.causes = tuple(causes)
        subject = f'{kind}.{group} "{name}"' if group else f'{kind} "{name}"'
        listed = ", ".join(dict.fromkeys(str(cause) for cause in causes))
        if len(self.causes) > 1:
            listed = f"[{listed}]"
        details = _details(group, kind, name, causes=[cause.to_cause() for cause in causes])
        super().__init__(422, "Invalid", f"{subject} is invalid: {listed}", details)


class TooManyRequests(ApiError):
    """429: try again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        details = {"retryAfterSeconds": retry_after_seconds} if retry_after_seconds else None
        super().__init__(429, "TooManyRequests", message, details)


class InternalError(ApiError):
    """500: our fault; the log has the trace."""

    def __init__(self, why: str) -> None:
        details = {"causes": [{"message": why}]}
        super().__init__(500, "InternalError", f"Internal error occurred: {why}", details)


class ServiceUnavailable(ApiError):
    """503: not now (store failed or away, not the leader). With `retry_after_seconds` when it will pass by itself."""

    def __init__(self, message: str, retry_after_seconds: int = 0) -> None:
        details = {"retryAfterSeconds": retry_after_seconds} if retry_after_seconds else None
        super().__init__(503, "ServiceUnavailable", message, details)


class Timeout(ApiError):
    """504: something behind us (an executor's node server) did not answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(504, "Timeout", f"Timeout: {message}")
