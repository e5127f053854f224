"""Pydantic models -> OpenAPI schemas, in the forms kubectl expects of v2 and v3.

A schema carries what kubectl reads: descriptions (explain), types (create --validate of old kubectls), group,
version and kind of top-level types, and merge keys (apply). Scalars with a meaning of their own (Time, Quantity,
IntOrString) are definitions, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scheduler.registry.resource import Resource
from shared.models.base import KubeModel, Shape, patch_schema
from shared.models.meta import META, DeleteOptions, ListMeta, Status

Json = dict[str, Any]

_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_NAMED_FORMATS = {
    "date-time": f"{META}.Time",
    "micro-time": f"{META}.MicroTime",
    "quantity": _QUANTITY,
    "int-or-string": _INT_OR_STRING,
}
_SCALARS: dict[str, tuple[Json, Json]] = {
    # name: the OpenAPI v2 form, the v3 form
    f"{META}.Time": ({"type": "string", "format": "date-time"},) * 2,
    f"{META}.MicroTime": ({"type": "string", "format": "date-time"},) * 2,
    _QUANTITY: ({"type": "string"}, {"oneOf": [{"type": "string"}, {"type": "number"}]}),
    _INT_OR_STRING: (
        {"type": "string", "format": "int-or-string"},
        {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    ),
    f"{META}.Patch": ({"type": "object"},) * 2,
}
_DESCRIPTIONS = {
    f"{META}.Time": "A moment, as RFC 3339 text.",
    f"{META}.MicroTime": "A moment, as RFC 3339 text with microseconds.",
    _QUANTITY: "An amount with an optional suffix: 500m, 1.5, 64Mi, 1e3.",
    _INT_OR_STRING: "A number or a text.",
    f"{META}.Patch": "A change to an object.",
}


def definition_name(model: type[KubeModel]) -> str:
    """`io.k8s.api.core.v1.Pod`."""
    return f"{model.schema_prefix}.{model.__name__}"


def list_name(resource: Resource) -> str:
    """`io.k8s.api.core.v1.PodList`."""
    return f"{definition_name(resource.model)}List"


def patch_name() -> str:
    return f"{META}.Patch"


def definitions(resources: Iterable[Resource], *, v3: bool) -> Json:
    """All schemas that `resources` need, by name."""
    refer = _refer_v3 if v3 else _refer_v2
    found: Json = {}
    for name, forms in _SCALARS.items():
        found[name] = {"description": _DESCRIPTIONS[name], **forms[v3]}
    for model in (Status, ListMeta, DeleteOptions):
        _collect(model, found, refer)
    for resource in resources:
        _collect(resource.model, found, refer)
        gvk = group_version_kind(resource)
        found[definition_name(resource.model)]["x-kubernetes-group-version-kind"] = [gvk]
        found[list_name(resource)] = _list_schema(resource, refer)
    for model in (Status, DeleteOptions):
        gvk = {"group": "", "version": "v1", "kind": model.__name__}
        found[definition_name(model)]["x-kubernetes-group-version-kind"] = [gvk]
    return found


def group_version_kind(resource: Resource) -> Json:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _refer_v2(name: str) -> Json:
    return {"$ref": f"#/definitions/{name}"}


def _refer_v3(name: str) -> Json:
    # Beside a $ref nothing else counts in OpenAPI 3.0, so a description needs the allOf around it.
    return {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}


Refer = Callable[[str], Json]


def _collect(model: type[KubeModel], found: Json, refer: Refer) -> None:
    name = definition_name(model)
    if name in found:
        return
    schema: Json = {"description": (model.__doc__ or "").strip(), "type": "object"}
    found[name] = schema
    shapes = patch_schema(model)
    required = sorted(shape.name for shape in shapes.values() if shape.required)
    if required:
        schema["required"] = required
    schema["properties"] = {shape.name: _property(shape, refer) for shape in shapes.values()}
    for shape in shapes.values():
        if shape.model is not None:
            _collect(shape.model, found, refer)


def _property(shape: Shape, refer: Refer) -> Json:
    held = _held(shape, refer)
    if shape.container == "list":
        schema: Json = {"type": "array", "items": _plain(held)}
    elif shape.container == "map":
        schema = {"type": "object", "additionalProperties": _plain(held)}
    else:
        schema = dict(held)
    schema["description"] = shape.description
    if shape.merge_key:
        schema["x-kubernetes-patch-merge-key"] = shape.merge_key
    if shape.strategies:
        schema["x-kubernetes-patch-strategy"] = ",".join(sorted(shape.strategies))
    return schema


def _held(shape: Shape, refer: Refer) -> Json:
    if shape.model is not None:
        return refer(definition_name(shape.model))
    if shape.format in _NAMED_FORMATS:
        return refer(_NAMED_FORMATS[shape.format])
    return {"type": shape.scalar, "format": shape.format} if shape.format else {"type": shape.scalar}


def _plain(held: Json) -> Json:
    """Items need no allOf around their reference."""
    return held["allOf"][0] if "allOf" in held else held


def _list_schema(resource: Resource, refer: Refer) -> Json:
    item = _plain(refer(definition_name(resource.model)))
    gvk = {**group_version_kind(resource), "kind": f"{resource.kind}List"}
    return {
        "description": f"A list of {resource.plural}.",
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{resource.api_version}."},
            "items": {"type": "array", "items": item, "description": "The items."},
            "kind": {"type": "string", "description": f"{resource.kind}List."},
            "metadata": {**refer(definition_name(ListMeta)), "description": "List metadata."},
        },
        "x-kubernetes-group-version-kind": [gvk],
    }
