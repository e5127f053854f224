"""What a pod's directory says of its networks, for whoever only looks: `list`, `status`, `gc`."""

import json
from pathlib import Path
from typing import Any, Final

RECORD: Final = "net/attached.json"
"""What is, or may be, attached (`record`)."""
INFO: Final = "net-info.json"
"""rkt's networking/netinfo: what the pod has, or had."""


def info(pod: Path) -> list[dict[str, Any]]:
    """The networks that a pod has, or had; [] when it had none."""
    try:
        found = json.loads((pod / INFO).read_bytes())
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def shown(pod: Path) -> str:
    """For `list` and `status`: `default:ip4=172.16.28.2, …` (rkt rkt/list.go, fmtNets)."""
    named = [(one.get("netName", ""), str(one.get("ip") or "")) for one in info(pod)]
    return ", ".join(f"{name}:ip{6 if ':' in ip else 4}={ip or '<nil>'}" for name, ip in named)
