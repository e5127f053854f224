"""ConfigMaps and Secrets as a pod's containers and volumes use them, and what is said when one is not there. Pure.

Sources: Kubernetes `pkg/kubelet/kubelet_pods.go`, `pkg/volume/configmap`, `pkg/volume/secret` for the words.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class MissingError(Exception):
    """An object or a key that must be there is not; one line that names it."""


@dataclass(frozen=True, slots=True)
class Objects:
    """By name, each with its values by key. texts, binaries: both parts of ConfigMaps."""

    texts: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    binaries: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Objects":
        """As `shared.wire.Launch` has them. Raises ValueError for what is none."""
        try:
            maps = raw.get("configMaps") or {}
            return cls(
                {
                    name: {key: text.encode() for key, text in (one.get("data") or {}).items()}
                    for name, one in maps.items()
                },
                {name: _bytes(one.get("binaryData")) for name, one in maps.items()},
                {name: _bytes(one.get("data")) for name, one in (raw.get("secrets") or {}).items()},
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"objects: not as expected: {type(error).__name__}") from None

    def text(self, reference: Mapping[str, Any]) -> Mapping[str, bytes] | None:
        """What of a ConfigMap can be variables. None when it is optional and not there. Raises MissingError."""
        return _found(self.texts, "configmap", reference["name"], reference)

    def config_map(self, reference: Mapping[str, Any]) -> Mapping[str, bytes] | None:
        """All of it. None when it is optional and not there. Raises MissingError."""
        text = self.text(reference)
        return None if text is None else {**text, **self.binaries.get(reference["name"], {})}

    def secret(self, reference: Mapping[str, Any]) -> Mapping[str, bytes] | None:
        """None when it is optional and not there. Raises MissingError."""
        name = reference.get("secretName") or reference["name"]
        return _found(self.secrets, "secret", name, reference)


def _bytes(data: Mapping[str, str] | None) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (data or {}).items()}


def _found(
    there: Mapping[str, Mapping[str, bytes]], kind: str, name: str, reference: Mapping[str, Any]
) -> Mapping[str, bytes] | None:
    if name not in there and not reference.get("optional"):
        raise MissingError(f'{kind} "{name}" not found')
    return there.get(name)
