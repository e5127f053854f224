"""A sample of every model: each field filled with something of its type."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.models.base import KubeModel, Shape, patch_schema

SCALARS: dict[str, Any] = {
    "string": "text",
    "integer": 7,
    "number": 1.5,
    "boolean": True,
    "object": {"any": 1},
}
FORMATS = {
    "date-time": "2024-05-01T12:00:00Z",
    "micro-time": "2024-05-01T12:00:00.123456Z",
    "quantity": "500m",
    "int-or-string": 80,
}


def filled(model: type[KubeModel]) -> dict[str, Any]:
    return {name: value_of(shape) for name, shape in patch_schema(model).items()}


def value_of(shape: Shape) -> Any:
    scalar = FORMATS.get(shape.format, SCALARS.get(shape.scalar))
    held: Any = scalar if shape.model is None else filled(shape.model)
    return {"list": [held], "map": {"key": held}, "": held}[shape.container]


@pytest.fixture
def fill() -> Callable[[type[KubeModel]], dict[str, Any]]:
    return filled
