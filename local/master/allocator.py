"""Who is offered what: roles, filters, suppression and dominant-resource fairness, without I/O or clock.

What an agent has is either free, or offered to or used by a framework: this module only knows the sum of the last
two. Not here: quota, weights, oversubscription, offer constraints, fault domains.

Source: Mesos src/master/allocator/mesos/hierarchical.cpp (`__allocate`, `recoverResources`, `RefusedOfferFilter`,
`reviveOffers`), src/master/constants.hpp.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.mesos.resources import Resources

DEFAULT_REFUSE_SECONDS = 5.0
MAX_REFUSE_SECONDS = 365 * 86400.0
MIN_CPUS = 10  # thousandths; an offer needs this much of one of the two (--min_allocatable_resources)
MIN_MEM = 32_000


class Allocation(NamedTuple):
    """What one framework is to be offered of one agent."""

    framework_id: str
    role: str
    agent_id: str
    resources: Resources  # with allocation_info


class Filter(NamedTuple):
    """A refusal: hides every offer that `resources` contains."""

    resources: Resources  # without allocation_info
    expires: float


@dataclass
class _Framework:
    roles: set[str]
    capabilities: frozenset[str]
    suppressed: set[str] = field(default_factory=set)
    active: bool = True
    filters: dict[tuple[str, str], list[Filter]] = field(default_factory=dict)  # by role and agent


@dataclass
class _Agent:
    total: Resources
    taken: dict[str, Resources] = field(default_factory=dict)  # by framework, with allocation_info
    active: bool = True


class Allocator:
    """The state and the decisions; the master turns `allocate()` into offers."""

    def __init__(self, interval: float, shuffle: Callable[[list[str]], None] = lambda items: None) -> None:
        self._interval = interval
        self._shuffle = shuffle
        self._frameworks: dict[str, _Framework] = {}
        self._agents: dict[str, _Agent] = {}

    # ---- what there is

    def add_agent(self, agent_id: str, total: Resources, used: dict[str, Resources]) -> None:
        """`used`: by framework, with allocation_info."""
        self._agents[agent_id] = _Agent(total, dict(used))

    def remove_agent(self, agent_id: str) -> None:
        """Also drops the filters on it, as `removeFilters` does."""
        self._agents.pop(agent_id, None)
        for framework in self._frameworks.values():
            for key in [key for key in framework.filters if key[1] == agent_id]:
                del framework.filters[key]

    def set_agent_active(self, agent_id: str, active: bool) -> None:
        if agent_id in self._agents:
            self._agents[agent_id].active = active

    def add_framework(
        self, framework_id: str, roles: Iterable[str], suppressed: Iterable[str], capabilities: frozenset[str]
    ) -> None:
        """Add, or replace roles, suppression and capabilities of, a framework."""
        old = self._frameworks.get(framework_id)
        new = _Framework(set(roles), capabilities, set(suppressed))
        if old is not None:
            new.active = old.active
            new.filters = {k: v for k, v in old.filters.items() if k[0] in new.roles}
        self._frameworks[framework_id] = new

    def remove_framework(self, framework_id: str) -> None:
        self._frameworks.pop(framework_id, None)
        for agent in self._agents.values():
            agent.taken.pop(framework_id, None)

    def set_framework_active(self, framework_id: str, active: bool) -> None:
        """An inactive framework gets no offers; deactivation also forgets its filters."""
        framework = self._frameworks[framework_id]
        framework.active = active
        if not active:
            framework.filters.clear()

    # ---- what changes

    def suppress(self, framework_id: str, roles: Iterable[str]) -> None:
        """No roles means all of them."""
        framework = self._frameworks[framework_id]
        framework.suppressed |= set(roles) or framework.roles

    def revive(self, framework_id: str, roles: Iterable[str]) -> None:
        """Un-suppress, and drop all filters; no roles means all of them."""
        framework = self._frameworks[framework_id]
        chosen = set(roles) or framework.roles
        framework.suppressed -= chosen
        framework.filters = {k: v for k, v in framework.filters.items() if k[0] not in chosen}

    def suppressed(self, framework_id: str) -> set[str]:
        return set(self._frameworks[framework_id].suppressed)

    def recover(
        self,
        framework_id: str,
        agent_id: str,
        resources: Resources,
        refuse_seconds: float | None = None,
        now: float = 0.0,
    ) -> None:
        """Resources are free again; `refuse_seconds` also sets a filter (None: no filter)."""
        agent = self._agents.get(agent_id)
        if agent is not None and framework_id in agent.taken:
            rest = agent.taken[framework_id] - resources
            if rest:
                agent.taken[framework_id] = rest
            else:
                del agent.taken[framework_id]
        framework = self._frameworks.get(framework_id)
        if refuse_seconds is None or framework is None or agent is None or not resources:
            return
        duration = _refusal(refuse_seconds)
        if not duration:
            return
        expires = now + max(self._interval, duration)
        for role in resources.allocated_roles():
            key = (role, agent_id)
            framework.filters.setdefault(key, []).append(Filter(resources.unallocate(), expires))

    def convert(self, framework_id: str, agent_id: str, consumed: Resources, converted: Resources) -> None:
        """An operation changed what an agent has, and a framework holds of it; both with allocation_info."""
        agent = self._agents[agent_id]
        agent.total = agent.total - consumed.unallocate() + converted.unallocate()
        agent.taken[framework_id] = agent.taken.get(framework_id, Resources()) - consumed + converted

    def holders(self, agent_id: str) -> list[str]:
        """Frameworks that are offered or use something of an agent."""
        return list(self._agents[agent_id].taken)

    # ---- the decision

    def allocate(self, now: float, agents: Iterable[str] | None = None) -> list[Allocation]:
        """Allocate what is free on the agents (all when None), and return it; it counts as taken from now on."""
        candidates = [a for a in (self._agents if agents is None else agents) if a in self._agents]
        candidates = [a for a in candidates if self._agents[a].active]
        self._shuffle(candidates)
        result: list[Allocation] = []
        for agent_id in candidates:
            for role in self._roles_in_order():
                for framework_id in self._frameworks_in_order(role):
                    resources = self._offerable(agent_id, role, framework_id, now)
                    if resources is None:
                        continue
                    taken = self._agents[agent_id].taken
                    allocated = resources.allocate(role)
                    taken[framework_id] = taken.get(framework_id, Resources()) + allocated
                    result.append(Allocation(framework_id, role, agent_id, allocated))
        return result

    def free(self, agent_id: str) -> Resources:
        """What of an agent nobody holds."""
        agent = self._agents[agent_id]
        return agent.total - sum((t.unallocate() for t in agent.taken.values()), Resources())

    def _offerable(self, agent_id: str, role: str, framework_id: str, now: float) -> Resources | None:
        framework = self._frameworks[framework_id]
        if "GPU_RESOURCES" not in framework.capabilities and self._agents[agent_id].total.scalar("gpus"):
            return None  # --filter_gpu_resources: GPU agents are for frameworks that know GPUs
        parts = [p for p in self.free(agent_id).split() if _fits(p, role, framework.capabilities)]
        parts.sort(key=lambda part: part.to_json()[0]["type"] == "SCALAR")  # the order Mesos offers them in
        resources = sum(parts, Resources())
        if resources.scalar("cpus") < MIN_CPUS and resources.scalar("mem") < MIN_MEM:
            return None
        key = (role, agent_id)
        filters = [f for f in framework.filters.get(key, ()) if f.expires > now]
        if filters:
            framework.filters[key] = filters
        else:
            framework.filters.pop(key, None)
        return None if any(f.resources.contains(resources) for f in filters) else resources

    def _roles_in_order(self) -> list[str]:
        roles = {r for f in self._frameworks.values() if f.active for r in f.roles - f.suppressed}
        if len(roles) < 2:
            return list(roles)
        return sorted(roles, key=lambda role: (self._share(role, None), role))

    def _frameworks_in_order(self, role: str) -> list[str]:
        found = [
            fid
            for fid, f in self._frameworks.items()
            if f.active and role in f.roles and role not in f.suppressed
        ]
        if len(found) < 2:
            return found
        return sorted(found, key=lambda fid: (self._share(role, fid), fid))

    def _share(self, role: str, framework_id: str | None) -> float:
        """The dominant share of a role, or of one framework in it."""
        totals: dict[str, int] = {}
        taken: dict[str, int] = {}
        for agent in self._agents.values():
            for name in ("cpus", "mem", "disk", "gpus"):
                totals[name] = totals.get(name, 0) + agent.total.scalar(name)
            for fid, resources in agent.taken.items():
                if framework_id in (None, fid):
                    for part in resources.split():
                        if role in part.allocated_roles():
                            for name in part.names():
                                taken[name] = taken.get(name, 0) + part.scalar(name)
        return max((taken.get(name, 0) / total for name, total in totals.items() if total), default=0.0)


def _refusal(seconds: float) -> float:
    if seconds < 0 or seconds != seconds:  # negative and NaN count as not given
        return DEFAULT_REFUSE_SECONDS
    return min(seconds, MAX_REFUSE_SECONDS)


def _fits(part: Resources, role: str, capabilities: frozenset[str]) -> bool:
    """Whether a framework in `role` may be offered this identity."""
    (shape,) = part.to_json()
    if "revocable" in shape and "REVOCABLE_RESOURCES" not in capabilities:
        return False
    if "shared" in shape and "SHARED_RESOURCES" not in capabilities:
        return False
    reservations = shape.get("reservations", [])
    if not reservations:
        return True
    if len(reservations) > 1 and "RESERVATION_REFINEMENT" not in capabilities:
        return False
    owner = reservations[-1]["role"]
    return role == owner or role.startswith(owner + "/")
