"""Who is offered what: roles, filters, suppression, quota and dominant-resource fairness, without I/O or clock.

What an agent has is either free, or offered to or used by a framework: this module only knows the sum of the last
two. Not here: weights, offer constraints; roles are sorted as if none were above another.

Source: Mesos src/master/allocator/mesos/hierarchical.cpp (`__generateOffers`, `recoverResources`,
`RefusedOfferFilter`, `reviveOffers`, `isCapableOfReceivingAgent`), src/master/constants.hpp.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from local.master.quantities import Books, Quota, counts, is_reserved, no_more_than
from local.wire.proto import Json
from shared.mesos.resources import Resources

DEFAULT_REFUSE_SECONDS = 5.0
MAX_REFUSE_SECONDS = 365 * 86400.0
MIN_CPUS = 10  # thousandths; an offer needs this much of one of the two (--min_allocatable_resources)
MIN_MEM = 32_000
SHARED_BY = ("cpus", "mem", "disk", "gpus")
"""What dominant shares are taken of."""


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
    hidden: dict[tuple[str, str], tuple[Resources, float]] = field(default_factory=dict)
    """What of an agent was free when a filter hid it, and until when: so that is not worked out again."""


@dataclass
class _Agent:
    total: Resources
    remote: bool = False
    active: bool = True
    taken: dict[str, Resources] = field(default_factory=dict)  # by framework, with allocation_info
    known_free: Resources | None = None

    @property
    def free(self) -> Resources:
        """What nobody holds; kept until something changes."""
        if self.known_free is None:
            self.known_free = self.total
            for taken in self.taken.values():
                self.known_free = self.known_free - taken.unallocate()
        return self.known_free


class Allocator:
    """The state and the decisions; the master turns `allocate()` into offers."""

    def __init__(self, interval: float, shuffle: Callable[[list[str]], None] = lambda items: None) -> None:
        self._interval = interval
        self._shuffle = shuffle
        self._frameworks: dict[str, _Framework] = {}
        self._agents: dict[str, _Agent] = {}
        self._quotas: dict[str, Quota] = {}
        self._there: Counter[str] = Counter()
        self._of_role: dict[str, Counter[str]] = {}
        self._of_framework: dict[tuple[str, str], Counter[str]] = {}  # by role and framework

    # ---- what there is

    def add_agent(
        self, agent_id: str, total: Resources, used: dict[str, Resources], *, remote: bool = False
    ) -> None:
        """`used`: by framework, with allocation_info. `remote`: in another region than the master."""
        agent = self._agents[agent_id] = _Agent(total, remote)
        self._count(total, 1)
        for framework_id, resources in used.items():
            self._charge(agent, framework_id, resources)

    def remove_agent(self, agent_id: str) -> None:
        """Also drops the filters on it, as `removeFilters` does."""
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            self._count(agent.total, -1)
            for framework_id, resources in list(agent.taken.items()):
                self._discharge(agent, framework_id, resources)
        for framework in self._frameworks.values():
            for key in [key for key in framework.filters if key[1] == agent_id]:
                del framework.filters[key]
                framework.hidden.pop(key, None)

    def update_total(self, agent_id: str, total: Resources) -> None:
        """An agent has something else now."""
        agent = self._agents[agent_id]
        self._count(agent.total, -1)
        self._count(total, 1)
        agent.total, agent.known_free = total, None

    def set_quota(self, role: str, quota: Quota) -> None:
        """No guarantee and no limit is no quota."""
        if quota:
            self._quotas[role] = quota
        else:
            self._quotas.pop(role, None)

    def _count(self, total: Resources, sign: int) -> None:
        for name in SHARED_BY:
            self._there[name] += sign * total.scalar(name)

    def _charge(self, agent: _Agent, framework_id: str, resources: Resources) -> None:
        """`resources` with allocation_info are taken."""
        agent.taken[framework_id] = agent.taken.get(framework_id, Resources()) + resources
        agent.known_free = None
        self._share_out(framework_id, resources, 1)

    def _discharge(self, agent: _Agent, framework_id: str, resources: Resources) -> None:
        """They are free again, as far as they were taken."""
        before = agent.taken.get(framework_id)
        if before is None:
            return
        if before.contains(resources):
            self._share_out(framework_id, resources, -1)
            rest = before - resources
        else:
            rest = before - resources
            self._share_out(framework_id, before, -1)
            self._share_out(framework_id, rest, 1)
        if rest:
            agent.taken[framework_id] = rest
        else:
            del agent.taken[framework_id]
        agent.known_free = None

    def _share_out(self, framework_id: str, resources: Resources, sign: int) -> None:
        roles = resources.allocated_roles()
        for role in roles:
            own = resources if len(roles) == 1 else resources.filter(_allocated_to(role))
            of_role = self._of_role.setdefault(role, Counter())
            of_framework = self._of_framework.setdefault((role, framework_id), Counter())
            for name in SHARED_BY:
                amount = sign * own.scalar(name)
                of_role[name] += amount
                of_framework[name] += amount

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
            if framework_id in agent.taken:
                self._discharge(agent, framework_id, agent.taken[framework_id])
        for key in [key for key in self._of_framework if key[1] == framework_id]:
            del self._of_framework[key]

    def set_framework_active(self, framework_id: str, active: bool) -> None:
        """An inactive framework gets no offers; deactivation also forgets its filters."""
        framework = self._frameworks[framework_id]
        framework.active = active
        if not active:
            framework.filters.clear()
            framework.hidden.clear()

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
        framework.hidden.clear()

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
        if agent is not None:
            self._discharge(agent, framework_id, resources)
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
        self.update_total(agent_id, agent.total - consumed.unallocate() + converted.unallocate())
        self._discharge(agent, framework_id, consumed)
        self._charge(agent, framework_id, converted)

    def holders(self, agent_id: str) -> list[str]:
        """Frameworks that are offered or use something of an agent."""
        return list(self._agents[agent_id].taken)

    # ---- the decision

    def allocate(self, now: float, agents: Iterable[str] | None = None) -> list[Allocation]:
        """Allocate what is free on the agents (all when None), and return it; it counts as taken from now on. First to
        roles whose guarantees are not met, then to all."""
        candidates = [a for a in (self._agents if agents is None else agents) if a in self._agents]
        candidates = [a for a in candidates if self._agents[a].active]
        result: list[Allocation] = []
        books = None
        if self._quotas:
            every = ((one.total, one.taken.values(), one.free) for one in self._agents.values())
            books = Books.of(self._quotas, every)
            self._shuffle(candidates)
            self._round(candidates, books, now, result, guaranteed=True)
        self._shuffle(candidates)
        self._round(candidates, books, now, result, guaranteed=False)
        return result

    def _round(
        self,
        agents: Iterable[str],
        books: Books | None,
        now: float,
        result: list[Allocation],
        *,
        guaranteed: bool,
    ) -> None:
        """One of the two stages; agents in their order, roles and frameworks by their shares."""
        order = self._order()
        for agent_id in agents:
            agent, before = self._agents[agent_id], len(result)
            if not agent.free:
                continue
            for role, framework_ids in order:
                if guaranteed and (books is None or role not in self._quotas or not books.unsatisfied(role)):
                    continue
                for framework_id in framework_ids:
                    if books is None and self._is_hidden(framework_id, role, agent_id, now):
                        continue
                    made = self._offer(agent, role, framework_id, books, guaranteed)
                    if made is None:
                        continue
                    resources, guarantees, additional = made
                    if self._is_filtered(framework_id, role, agent_id, resources, now):
                        continue
                    if books is not None:
                        books.take(role, guarantees, additional)
                    allocated = resources.allocate(role)
                    self._charge(agent, framework_id, allocated)
                    result.append(Allocation(framework_id, role, agent_id, allocated))
            if len(result) > before:
                order = self._order()  # somebody's share grew

    def _order(self) -> list[tuple[str, list[str]]]:
        """Roles and the frameworks of each, those with the smallest shares first."""
        return [(role, self._frameworks_in_order(role)) for role in self._roles_in_order()]

    def _is_hidden(self, framework_id: str, role: str, agent_id: str, now: float) -> bool:
        """Whether a filter hid exactly this before, and does so still."""
        known = self._frameworks[framework_id].hidden.get((role, agent_id))
        return known is not None and known[0] is self._agents[agent_id].free and now < known[1]

    def free(self, agent_id: str) -> Resources:
        """What of an agent nobody holds."""
        return self._agents[agent_id].free

    def _offer(
        self, agent: _Agent, role: str, framework_id: str, books: Books | None, guaranteed: bool
    ) -> tuple[Resources, Resources, Resources] | None:
        """What a framework is to have of an agent, and of that, what meets guarantees and what counts besides."""
        capabilities = self._frameworks[framework_id].capabilities
        if "GPU_RESOURCES" not in capabilities and agent.total.scalar("gpus"):
            return None  # --filter_gpu_resources: GPU agents are for frameworks that know GPUs
        if "REGION_AWARE" not in capabilities and agent.remote:
            return None
        free = agent.free
        if not _is_allocatable(free):
            return None
        available = free.filter(lambda shape: _fits(shape, role, capabilities))
        additional = available.filter(counts)
        rest = available.filter(lambda shape: not counts(shape))
        guarantees = Resources()
        if guaranteed and books is not None:
            guarantees = no_more_than(additional, books.unsatisfied(role))
            if not guarantees:
                return None
            additional = additional - guarantees
            rest = rest.filter(
                lambda shape: not is_reserved(shape) or shape["reservations"][-1]["role"] == role
            )
        if books is not None:
            additional = books.limited(role, additional, guarantees)
        resources = rest + guarantees + additional
        return (resources, guarantees, additional) if _is_allocatable(resources) else None

    def _is_filtered(
        self, framework_id: str, role: str, agent_id: str, resources: Resources, now: float
    ) -> bool:
        framework, key = self._frameworks[framework_id], (role, agent_id)
        if key not in framework.filters:
            return False
        filters = [f for f in framework.filters[key] if f.expires > now]
        if filters:
            framework.filters[key] = filters
        else:
            del framework.filters[key]
        for one in filters:
            if one.resources.contains(resources):
                framework.hidden[key] = (self._agents[agent_id].free, one.expires)
                return True
        return False

    def _roles_in_order(self) -> list[str]:
        roles = {r for f in self._frameworks.values() if f.active for r in f.roles - f.suppressed}
        if len(roles) < 2:
            return list(roles)
        return sorted(roles, key=lambda role: (self._share(self._of_role.get(role, {})), role))

    def _frameworks_in_order(self, role: str) -> list[str]:
        found = [
            fid
            for fid, f in self._frameworks.items()
            if f.active and role in f.roles and role not in f.suppressed
        ]
        if len(found) < 2:
            return found
        return sorted(found, key=lambda fid: (self._share(self._of_framework.get((role, fid), {})), fid))

    def _share(self, taken: Mapping[str, int]) -> float:
        """The dominant share."""
        return max((taken.get(name, 0) / there for name, there in self._there.items() if there), default=0.0)


def _allocated_to(role: str) -> Callable[[Json], bool]:
    return lambda shape: (shape.get("allocation_info") or {}).get("role") == role


def _is_allocatable(resources: Resources) -> bool:
    return resources.scalar("cpus") >= MIN_CPUS or resources.scalar("mem") >= MIN_MEM


def _refusal(seconds: float) -> float:
    if seconds < 0 or seconds != seconds:  # negative and NaN count as not given
        return DEFAULT_REFUSE_SECONDS
    return min(seconds, MAX_REFUSE_SECONDS)


def _fits(shape: Json, role: str, capabilities: frozenset[str]) -> bool:
    """Whether a framework in `role` may be offered this identity."""
    if "revocable" in shape and "REVOCABLE_RESOURCES" not in capabilities:
        return False
    if "shared" in shape and "SHARED_RESOURCES" not in capabilities:
        return False
    reservations = shape.get("reservations", ())
    if not reservations:
        return True
    if len(reservations) > 1 and "RESERVATION_REFINEMENT" not in capabilities:
        return False
    owner = reservations[-1]["role"]
    return role == owner or role.startswith(owner + "/")
