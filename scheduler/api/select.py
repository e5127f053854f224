"""What a list, a watch or a deletion of many is about: the objects that its selectors match."""

from __future__ import annotations

from scheduler.api.context import Api
from scheduler.api.query import Selection
from scheduler.registry.resource import Resource
from scheduler.store import Entry, Key


def select(api: Api, resource: Resource, namespace: str, selection: Selection) -> tuple[list[Entry], int]:
    """The objects of a namespace (all of them: "") that a selection matches, and the list's version."""
    if selection.name is not None and (namespace or not resource.namespaced):
        entry = api.store.get(Key(resource.store_name, namespace, selection.name))
        entries, version = [entry] if entry else [], api.store.version
    else:
        entries, version = api.store.list(resource.store_name, namespace)
    if selection.everything:
        return entries, version
    return [entry for entry in entries if selection.matches(entry.obj)], version
