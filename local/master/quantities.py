"""Bare amounts by name, in thousandths, and what quota makes of them: who consumed what, what must be held back. Pure.

Source: Mesos src/common/resource_quantities.cpp, src/master/allocator/mesos/hierarchical.cpp (`__generateOffers`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local.wire.proto import Json
from shared.mesos.resources import Resources

Amounts = dict[str, int]


def top(role: str) -> str:
    """Only roles at the top have quota. What those below have counts for them, but nothing limits that."""
    return role.partition("/")[0]


def scalars(resources: Resources) -> Amounts:
    found: Amounts = {}
    for part in resources.split():
        (name,) = part.names()
        if amount := part.scalar(name):
            found[name] = found.get(name, 0) + amount
    return found


def plus(left: Mapping[str, int], right: Mapping[str, int]) -> Amounts:
    return {name: left.get(name, 0) + right.get(name, 0) for name in left.keys() | right.keys()}


def minus(left: Mapping[str, int], right: Mapping[str, int]) -> Amounts:
    """Nothing goes below zero, and what is at zero is not there."""
    rest = {name: amount - right.get(name, 0) for name, amount in left.items()}
    return {name: amount for name, amount in rest.items() if amount > 0}


def covers(left: Mapping[str, int], right: Mapping[str, int]) -> bool:
    """Quantities: what is not named is zero."""
    return all(left.get(name, 0) >= amount for name, amount in right.items())


def within(limits: Mapping[str, int], amounts: Mapping[str, int]) -> bool:
    """Limits: what is not named has none."""
    return all(amounts.get(name, 0) <= amount for name, amount in limits.items())


def under(resources: Resources, limits: Mapping[str, int], consumed: Mapping[str, int]) -> Resources:
    """What of it limits leave room for."""
    return resources.capped({name: max(amount - consumed.get(name, 0), 0) for name, amount in limits.items()})


def no_more_than(resources: Resources, amounts: Mapping[str, int]) -> Resources:
    return resources.capped({name: amounts.get(name, 0) for name in resources.names()})


@dataclass(frozen=True)
class Quota:
    """Of a role. What has no limit is not in `limits`."""

    guarantees: Amounts = field(default_factory=dict)
    limits: Amounts = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.guarantees or self.limits)


def is_reserved(shape: Json) -> bool:
    return bool(shape.get("reservations"))


def counts(shape: Json) -> bool:
    """What quota is about: unreserved scalars that are not revocable."""
    return shape["type"] == "SCALAR" and not is_reserved(shape) and "revocable" not in shape


@dataclass
class Books:
    """Of one allocation cycle: what each role consumed of its quota, what has to be held back for guarantees, and what
    of that kind is free."""

    quotas: Mapping[str, Quota]
    consumed: dict[str, Amounts] = field(default_factory=dict)
    required: Amounts = field(default_factory=dict)
    available: Amounts = field(default_factory=dict)

    @classmethod
    def of(
        cls, quotas: Mapping[str, Quota], agents: Iterable[tuple[Resources, Iterable[Resources], Resources]]
    ) -> "Books":
        """`agents`: of each its total, what frameworks have of it, what is free."""
        books = cls(quotas, {role: {} for role in quotas})
        for total, taken, free in agents:
            for part in total.split():
                for reservation in part.reservations()[-1:]:
                    books._consume(reservation["role"], part)
            for one in taken:
                for part in one.filter(counts).split():
                    for role in part.allocated_roles():
                        books._consume(role, part)
            books.available = plus(books.available, scalars(free.filter(counts)))
        for role, quota in quotas.items():
            books.required = plus(books.required, minus(quota.guarantees, books.consumed[role]))
        return books

    def _consume(self, role: str, part: Resources) -> None:
        role = top(role)
        if role in self.consumed:
            self.consumed[role] = plus(self.consumed[role], scalars(part))

    def unsatisfied(self, role: str) -> Amounts:
        return minus(self.quotas[role].guarantees, self.consumed[role])

    def limited(self, role: str, resources: Resources, besides: Resources | None = None) -> Resources:
        """What of additional scalars a role may have, within its limits and without what is held back; `besides`: what
        it gets in any case, which counts for its limits."""
        quota = self.quotas.get(role)
        if quota is not None:
            already = scalars(besides) if besides is not None else {}
            resources = under(resources, quota.limits, plus(self.consumed[role], already))
        if self.required:
            resources = no_more_than(resources, minus(self.available, self.required))
        return resources

    def take(self, role: str, guaranteed: Resources, additional: Resources) -> None:
        """A role was given that much."""
        both = scalars(guaranteed + additional)
        if role in self.consumed:
            self.consumed[role] = plus(self.consumed[role], both)
        self.required = minus(self.required, scalars(guaranteed))
        self.available = minus(self.available, both)


def breakdown(resources: Iterable[Resources]) -> Amounts:
    """The sum of all of it."""
    total: Amounts = {}
    for one in resources:
        total = plus(total, scalars(one))
    return total


def shown(amounts: Mapping[str, int]) -> str:
    """As Mesos prints quantities: `cpus:1; mem:512`; `{}` for none."""
    return "; ".join(f"{name}:{amount / 1000:g}" for name, amount in sorted(amounts.items())) or "{}"


def from_map(obj: Any) -> Amounts:
    """From `map<string, Value.Scalar>`. Raises ValueError, in Mesos' words."""
    found: Amounts = {}
    for name, scalar in (obj or {}).items():
        value = scalar.get("value") if isinstance(scalar, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{{'{name}': {scalar}}}: not a scalar")
        large = ("1 exabyte", 1024**4) if name in ("mem", "disk") else ("1 trillion", 10**12)
        if value > large[1]:
            text = f"values greater than {large[0]} ({large[1]}) are not supported"
            raise ValueError(f"{{'{name}': {value:g}}} is invalid: {text}")
        if not value >= 0:
            raise ValueError(f"{{'{name}': {value:g}}}: Negative values not supported")
        found[name] = round(value * 1000)
    return found


def to_map(amounts: Mapping[str, int]) -> Json:
    return {name: {"value": amount / 1000} for name, amount in sorted(amounts.items())}
