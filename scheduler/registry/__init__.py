"""The resources we serve: models, defaults, validation, printing. One file a resource; no HTTP, no store.

`resource` is what each of them is, `decode` makes objects of JSON, `errors` has what is refused and how that is said.
Pods have several files: pod_defaults, pod_validation (and that of containers, volumes, security, handlers, affinity,
labels), pod_table, pod_warnings; `supported` is the list of their fields that Gantry does, `admission` and `wishes` are
what other objects say of them.
"""

from __future__ import annotations

from scheduler.registry.configmaps import CONFIGMAPS
from scheduler.registry.events import EVENTS
from scheduler.registry.namespaces import NAMESPACES
from scheduler.registry.nodes import NODES
from scheduler.registry.persistentvolumeclaims import PERSISTENTVOLUMECLAIMS
from scheduler.registry.persistentvolumes import PERSISTENTVOLUMES
from scheduler.registry.pods import PODS
from scheduler.registry.resource import Resource
from scheduler.registry.runtimeclasses import RUNTIMECLASSES
from scheduler.registry.secrets import SECRETS
from scheduler.registry.serviceaccounts import SERVICEACCOUNTS
from scheduler.registry.storageclasses import STORAGECLASSES

__all__ = [
    "CONFIGMAPS",
    "EVENTS",
    "NAMESPACES",
    "NODES",
    "PERSISTENTVOLUMECLAIMS",
    "PERSISTENTVOLUMES",
    "PODS",
    "RESOURCES",
    "RUNTIMECLASSES",
    "SECRETS",
    "SERVICEACCOUNTS",
    "STORAGECLASSES",
    "find",
]

RESOURCES: tuple[Resource, ...] = (
    CONFIGMAPS,
    EVENTS,
    NAMESPACES,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    RUNTIMECLASSES,
    STORAGECLASSES,
)

_BY_NAME = {(one.group, one.version, one.plural): one for one in RESOURCES}


def find(group: str, version: str, plural: str) -> Resource | None:
    """The resource of that name; None for one we do not serve."""
    return _BY_NAME.get((group, version, plural))
