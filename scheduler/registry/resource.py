"""What a resource is: its names, its model, and the functions that default, check, print and select it.

One file of this package builds one `Resource` (or a few that share code). The api room knows resources only
through this class; nothing here knows HTTP or the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from scheduler.registry.errors import BadRequest, FieldError
from shared.models.base import KubeModel
from shared.models.selectors import FieldSelector, parse_field_selector

__all__ = ["Column", "FieldError", "Object", "Resource"]

Object = dict[str, Any]
"""A Kubernetes object as plain JSON data."""


@dataclass(frozen=True, slots=True)
class Column:
    """A columnDefinition of a meta.k8s.io/v1 Table. Priority 0 is always shown, 1 with `-o wide`."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    def to_json(self) -> Object:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


class PrepareUpdate(Protocol):
    """(new, old, status=...) -> the object to store."""

    def __call__(self, new: Object, old: Object, *, status: bool) -> Object: ...


@dataclass(frozen=True, eq=False)
class Resource:
    """A served resource.

    Objects given to the functions below were decoded (`registry.decode`), so the types of their fields are
    right; the functions may change the `obj`/`new` they are given, never `old`.

    - `prepare_create(obj, now)`: fills defaults and resets what users may not set (status). The api has set
      name and namespace; it sets uid and creationTimestamp itself.
    - `validate_create(obj)`, `validate_update(new, old)`: the causes of a 422, empty when all is well.
    - `prepare_update(new, old, status=...)`: defaults; keeps what users may not change: the whole status, or
      with `status=True` everything but the status. Keeps uid, creationTimestamp, deletion fields of `old`.
    - `warn(obj)`: what the creator of `obj`, as it came, should rather do; kubectl shows it.
    - `row(obj, now)`: the cells of `columns`, as kube-apiserver prints them.
    - `fields`: the field selectors this resource offers, each a function from an object to the field's text. All
      resources have `metadata.name`, and `metadata.namespace` when they are in one.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    model: type[KubeModel]
    columns: tuple[Column, ...]
    row: Callable[[Object, datetime], list[Any]]
    prepare_create: Callable[[Object, datetime], Object]
    validate_create: Callable[[Object], list[FieldError]]
    prepare_update: PrepareUpdate
    validate_update: Callable[[Object, Object], list[FieldError]]
    fields: Mapping[str, Callable[[Object], str]] = field(default_factory=dict)
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = (
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    )
    subresources: tuple[str, ...] = ()
    warn: Callable[[Object], list[str]] = lambda _: []

    def __post_init__(self) -> None:
        names = {"metadata.name": _name} | ({"metadata.namespace": _namespace} if self.namespaced else {})
        object.__setattr__(self, "fields", {**names, **self.fields})

    @property
    def api_version(self) -> str:
        """`v1`, `apps/v1`: the apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def store_name(self) -> str:
        """`pods`, `deployments.apps`: the resource part of a store key."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def field_matcher(self, text: str) -> Callable[[Object], bool]:
        """A filter for `?fieldSelector=text`; BadRequest for a bad selector or a field not offered."""
        try:
            selector = parse_field_selector(text)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        for requirement in selector.requirements:
            if requirement.field not in self.fields:
                raise BadRequest(f"field label not supported: {requirement.field}")
        return self._matcher(selector)

    def _matcher(self, selector: FieldSelector) -> Callable[[Object], bool]:
        tests = [(self.fields[one.field], one.value, one.equal) for one in selector.requirements]
        return lambda obj: all((get(obj) == value) is equal for get, value, equal in tests)


def _name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))
