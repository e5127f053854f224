"""What a launch carries besides the pod: what the store has at that moment of the objects a pod refers to.

The executor never reads the store, so all it needs comes with the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.store import Key, Store

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Supplies:
    """runtime_handler: of the pod's RuntimeClass; "" for a pod without one, or whose class is no more."""

    runtime_handler: str = ""


NOTHING: Final = Supplies()


def supplies_of(pod: Mapping[str, Any], store: Store) -> Supplies:
    """What the store has for this v1 Pod."""
    spec = pod["spec"]
    name = spec.get("runtimeClassName")
    entry = store.get(Key("runtimeclasses.node.k8s.io", "", name)) if name else None
    return Supplies(runtime_handler=entry.obj["handler"] if entry else "")
