"""How much of the network a pod may use: Kubernetes' annotations, as appc's isolator `resource/network-bandwidth`.

The annotations are those of the bandwidth plug-in (`kubernetes.io/ingress-bandwidth`, `…/egress-bandwidth`), bits per
second; the isolator has bytes. Pods have loopback alone, the node's own network, or what CNI plugins have given them,
and no flavor limits any of that (`WHY_NOT`): a plugin may, in the network's own configuration.
"""

from collections.abc import Mapping
from typing import Any, Final

from shared.models.annotations import EGRESS_BANDWIDTH, INGRESS_BANDWIDTH
from shared.models.quantities import quantity_bytes

ISOLATOR: Final = "resource/network-bandwidth"
WHY_NOT: Final = "nothing here limits what a pod uses of the network"


def isolators(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the pod; nothing when it does not ask. `limit` is of what goes out, `gantry.io/ingress` of what comes in."""
    notes = pod["metadata"].get("annotations") or {}
    value = {
        key: str(-(-quantity_bytes(notes[name]) // 8))
        for key, name in (("limit", EGRESS_BANDWIDTH), ("gantry.io/ingress", INGRESS_BANDWIDTH))
        if name in notes
    }
    return [{"name": ISOLATOR, "value": {"default": True, **value}}] if value else []
