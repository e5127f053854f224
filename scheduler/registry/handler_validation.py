"""Validation of probes and lifecycle hooks.

Rules and wording: `pkg/apis/core/validation/validation.go` (validateProbe, validateHandler, validateLifecycle).
Objects have their defaults already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scheduler.registry import names
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object

_TIMES = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS = ("postStart", "preStop")
_KINDS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_SCHEMES = ("HTTP", "HTTPS")
_HEADER_NAME = re.compile(r"[-A-Za-z0-9]+")
_ALONE = "may not be set for init containers without restartPolicy=Always"


def validate_handlers(container: Object, path: str, *, alone: bool, grace: int) -> Iterator[FieldError]:
    """alone: it is an init container that the others wait for. grace: of the pod, in seconds."""
    if alone:
        for key in ("lifecycle", *_PROBES):
            if container.get(key):
                yield FieldError.forbidden(f"{path}.{key}", _ALONE)
        return
    for key in _PROBES:
        if container.get(key) is not None:
            yield from _validate_probe(container[key], f"{path}.{key}", readiness=key == "readinessProbe")
    for key in _HOOKS:
        hook = (container.get("lifecycle") or {}).get(key)
        if hook is not None:
            yield from _validate_handler(hook, f"{path}.lifecycle.{key}", grace)
            if "tcpSocket" in hook:
                # Kubernetes takes it, and then fails each time it is to be run.
                yield FieldError.forbidden(f"{path}.lifecycle.{key}.tcpSocket", "is not supported as a hook")


def _validate_probe(probe: Object, path: str, *, readiness: bool) -> Iterator[FieldError]:
    yield from _validate_handler(probe, path, 0)
    for key in _TIMES:
        if probe.get(key, 0) < 0:
            yield FieldError.invalid(f"{path}.{key}", probe[key], "must be greater than or equal to 0")
    grace = probe.get("terminationGracePeriodSeconds")
    if readiness:
        if grace is not None:
            why = "must not be set for readinessProbes"
            yield FieldError.invalid(f"{path}.terminationGracePeriodSeconds", grace, why)
        return
    if grace is not None and grace <= 0:
        yield FieldError.invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if probe.get("successThreshold", 1) != 1:
        yield FieldError.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _validate_handler(handler: Object, path: str, grace: int) -> Iterator[FieldError]:
    chosen = [kind for kind in _KINDS if handler.get(kind) is not None]
    if not chosen:
        yield FieldError.required(path, "must specify a handler type")
        return
    for kind in chosen[1:]:
        yield FieldError.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
    kind, path = chosen[0], f"{path}.{chosen[0]}"
    action = handler[kind]
    match kind:
        case "exec":
            if not action.get("command"):
                yield FieldError.required(f"{path}.command")
        case "httpGet":
            yield from _validate_http(action, path)
        case "tcpSocket":
            yield from _validate_port(action.get("port", 0), f"{path}.port")
        case "grpc":
            yield from _validate_port(action.get("port", 0), f"{path}.port")
        case "sleep":
            seconds = action.get("seconds", 0)
            if not 0 < seconds <= grace:
                why = f"must be greater than 0 and less than terminationGracePeriodSeconds ({grace})"
                yield FieldError.invalid(f"{path}.seconds", seconds, why)


def _validate_http(action: Object, path: str) -> Iterator[FieldError]:
    if not action.get("path"):
        yield FieldError.required(f"{path}.path")
    yield from _validate_port(action.get("port", 0), f"{path}.port")
    if action.get("scheme") not in _SCHEMES:
        yield FieldError.not_supported(f"{path}.scheme", action.get("scheme"), _SCHEMES)
    for header in action.get("httpHeaders") or ():
        name = header.get("name", "")
        if not _HEADER_NAME.fullmatch(name):
            why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')"
            yield FieldError.invalid(f"{path}.httpHeaders", name, why)


def _validate_port(port: Any, path: str) -> Iterator[FieldError]:
    """A number, or the name of a port; whether there is one of that name turns out when it is asked for."""
    complaint = names.port_name(port) if isinstance(port, str) else names.port_number(port)
    if complaint:
        yield FieldError.invalid(path, port, complaint)
