"""What is read of the containers of a v1 Pod in more than one place."""

from collections.abc import Mapping
from typing import Any, Literal

from executor.pods.ports import PullPolicy


def all_containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spec = pod["spec"]
    return [*(spec.get("initContainers") or ()), *spec["containers"]]


def pull_policy(container: Mapping[str, Any]) -> PullPolicy:
    """imagePullPolicy, or Kubernetes' default: Always for the tag `latest` or none, IfNotPresent for all others."""
    policies: dict[str, Literal["Always", "IfNotPresent", "Never"]] = {
        "Always": "Always",
        "IfNotPresent": "IfNotPresent",
        "Never": "Never",
    }
    asked = policies.get(container.get("imagePullPolicy") or "")
    if asked is not None:
        return asked
    image = str(container["image"])
    last = image.rpartition("/")[2]
    fixed = "@" in image or (":" in last and not last.endswith(":latest"))
    return "IfNotPresent" if fixed else "Always"
