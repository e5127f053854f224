"""How much of its networks a pod may use, as the `bandwidth` plugin is told (`capabilities`). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CAPABILITY: Final = "bandwidth"
PLUGIN: Final = "bandwidth"
_LEAST_BURST: Final = 1 << 20
"""Bits: some packets of any size, at any rate."""
_TENTH: Final = 10


@dataclass(frozen=True)
class Rates:
    """Bytes a second, of each network, into the pod and out of it; 0: no limit."""

    ingress: int = 0
    egress: int = 0

    def __bool__(self) -> bool:
        return bool(self.ingress or self.egress)

    def told(self) -> dict[str, Any]:
        """In bits; at the start, and after a rest, a tenth of a second's may come at once."""
        made: dict[str, Any] = {}
        for name, rate in (("ingress", self.ingress), ("egress", self.egress)):
            if rate:
                made |= {f"{name}Rate": rate * 8, f"{name}Burst": max(rate * 8 // _TENTH, _LEAST_BURST)}
        return made

    def under(self, other: "Rates") -> "Rates":
        """Both limits hold."""
        return Rates(_lower(self.ingress, other.ingress), _lower(self.egress, other.egress))


def _lower(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


def shown(told: Mapping[str, Any]) -> str:
    """For people, what `told` has made."""
    return "".join(
        f", {name} {told[f'{name}Rate']} bits/s" for name in ("ingress", "egress") if f"{name}Rate" in told
    )
