"""Pods and other objects on their way into the store."""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.registry import NODES, PODS
from scheduler.registry.decode import decode
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Resource

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def manifest() -> Callable[..., dict[str, Any]]:
    """A pod of one container `app`; keywords of `container` go there, the others into the spec."""

    def make(
        *, container: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None, **spec: Any
    ) -> Any:
        made = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", **(metadata or {})},
            "spec": {"containers": [{"name": "app", "image": "nginx:1", **(container or {})}], **spec},
        }
        return json.loads(json.dumps(made))

    return make


@pytest.fixture
def create() -> Callable[..., tuple[dict[str, Any], list[FieldError]]]:
    """What a POST does: decode, default, validate. Returns the object and its errors."""

    def run(obj: dict[str, Any], resource: Resource = PODS) -> tuple[dict[str, Any], list[FieldError]]:
        decoded, warnings = decode(resource, copy.deepcopy(obj), "Strict")
        assert warnings == []
        prepared = resource.prepare_create(decoded, NOW)
        return prepared, resource.validate_create(prepared)

    return run


@pytest.fixture
def update() -> Callable[..., tuple[dict[str, Any], list[FieldError]]]:
    """What a PUT does to `old`: decode, default, validate; `old` must come out untouched."""

    def run(
        new: dict[str, Any], old: dict[str, Any], resource: Resource = PODS, *, status: bool = False
    ) -> tuple[dict[str, Any], list[FieldError]]:
        before = copy.deepcopy(old)
        decoded, _ = decode(resource, copy.deepcopy(new), "Strict")
        prepared = resource.prepare_update(decoded, old, status=status)
        errors = resource.validate_update(prepared, old)
        assert old == before
        return prepared, errors

    return run


@pytest.fixture
def node() -> dict[str, Any]:
    made = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "agent1", "uid": "u", "creationTimestamp": "2024-05-01T11:00:00Z", "labels": {}},
        "spec": {"providerID": "mesos://a-S0"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "Hostname", "address": "agent1"},
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.32.0",
                "osImage": "Debian",
                "kernelVersion": "6.1",
                "containerRuntimeVersion": "gantry://0.1.0",
            },
        },
    }
    NODES.model.model_validate(made)
    return made
