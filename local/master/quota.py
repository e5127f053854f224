"""Quota of roles: what operators may ask for, which offers it takes back, and who consumes how much of it.

Source: Mesos src/master/quota_handler.cpp, src/master/quota.cpp, `RoleResourceBreakdown` of src/master/master.cpp.
"""

import logging
from collections.abc import Iterable
from typing import Any

from local.master.cluster import Cluster
from local.master.model import Offer
from local.master.quantities import (
    Amounts,
    Quota,
    breakdown,
    covers,
    from_map,
    minus,
    plus,
    scalars,
    shown,
    to_map,
    within,
)
from local.master.validation.ids import role_error
from local.master.validation.resources import bag
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)


class QuotaError(Exception):
    """Why an operator's call is refused; `status` is 400, or 409 for a quota that overcommits the cluster."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Quotas:
    """Acts on the quotas, which outlive the master in the registry."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        for role, config in cluster.registry.quotas.items():
            self.known[role] = Quota(from_map(config.get("guarantees")), from_map(config.get("limits")))
            cluster.allocator.set_quota(role, self.known[role])

    @property
    def known(self) -> dict[str, Quota]:
        return self._cluster.quotas

    # ---- operators

    def get(self) -> Json:
        """GET_QUOTA; `infos` is the older format, without limits."""
        infos, configs = [], []
        for role, quota in sorted(self.known.items()):
            guarantee = [
                {"name": name, "type": "SCALAR", "scalar": value}
                for name, value in to_map(quota.guarantees).items()
            ]
            infos.append({"role": role, **({"guarantee": guarantee} if guarantee else {})})
            configs.append({"role": role, **_config(quota)})
        return {"status": {"infos": infos, "configs": configs} if configs else {}}

    def update(self, call: Json) -> None:
        """UPDATE_QUOTA. Raises QuotaError."""
        new = {
            str(config.get("role", "")): self._parsed(config) for config in call.get("quota_configs") or ()
        }
        force = bool(call.get("force"))
        for role, quota in new.items():
            consumed = consumption(self._cluster, role)
            if not within(quota.limits, consumed) and not force:
                raise QuotaError(
                    f"Invalid QuotaConfig: Role '{role}' is already consuming '{shown(consumed)}'; this is more than "
                    f"the requested limits '{shown(quota.limits)}' (use 'force' flag to bypass this check)"
                )
        total, capacity = self._guarantees(new), self._capacity()
        if not covers(capacity, total) and not force:
            raise QuotaError(
                f"Invalid QuotaConfig: total quota guarantees '{shown(total)}' exceed cluster capacity "
                f"'{shown(capacity)}' (use 'force' flag to bypass this check)"
            )
        for role, quota in new.items():
            self._keep(role, quota)
        for role, quota in new.items():
            self._rescind(role, quota)
        self._cluster.allocate_soon()

    def _parsed(self, config: Json) -> Quota:
        role = config.get("role")
        if not isinstance(role, str):
            raise QuotaError("Invalid QuotaConfig: 'QuotaConfig.role' must be set")
        error = role_error(role)
        if error:
            raise QuotaError(f"Invalid QuotaConfig: Invalid 'QuotaConfig.role': {error}")
        self._check_role(role, "Invalid QuotaConfig: '{role}' is not on the roles whitelist")
        if "/" in role:
            raise QuotaError(f"Updating quota on nested role '{role}' is not supported yet")
        read: dict[str, Amounts] = {}
        for field in ("guarantees", "limits"):
            try:
                read[field] = from_map(config.get(field))
            except ValueError as problem:
                raise QuotaError(
                    f"Invalid QuotaConfig: Invalid 'QuotaConfig.{field}': {problem}"
                ) from problem
        if not within(read["limits"], read["guarantees"]):
            raise QuotaError(
                f"Invalid QuotaConfig: 'QuotaConfig.guarantees' {shown(read['guarantees'])} is not contained within "
                f"the 'QuotaConfig.limits' {shown(read['limits'])}"
            )
        return Quota(**read)

    def _check_role(self, role: str, text: str) -> None:
        roles = self._cluster.flags.roles
        if roles is not None and role != "*" and role not in roles:
            raise QuotaError(text.format(role=role))

    def _guarantees(self, new: dict[str, Quota]) -> Amounts:
        total: Amounts = {}
        for quota in {**self.known, **new}.values():
            total = plus(total, quota.guarantees)
        return total

    def _capacity(self) -> Amounts:
        return breakdown(
            agent.total.filter(lambda shape: "revocable" not in shape)
            for agent in self._cluster.agents.values()
        )

    def _keep(self, role: str, quota: Quota) -> None:
        log.info(
            "quota of role %s: guarantees %s, limits %s", role, shown(quota.guarantees), shown(quota.limits)
        )
        if quota:
            self.known[role] = quota
        else:
            self.known.pop(role, None)
        self._cluster.allocator.set_quota(role, quota)
        self._cluster.registry.keep_quotas({name: _config(one) for name, one in self.known.items()})

    def set(self, request: Json) -> None:
        """SET_QUOTA, deprecated: what is guaranteed is the limit, too. Raises QuotaError."""
        request = request.get("quota_request") or {}
        before = "Failed to validate set quota request: "
        quota = _legacy(request, before)
        role = request["role"]
        self._check_role(role, before + "Unknown role '{role}'")
        if role in self.known:
            raise QuotaError(f"{before}Cannot set quota for role '{role}' which already has quota")
        if "/" in role:
            raise QuotaError(f"Setting quota on nested role '{role}' is not supported yet")
        total, capacity = self._guarantees({role: quota}), self._capacity()
        if not covers(capacity, total) and not request.get("force"):
            text = "Quota guarantees overcommit the cluster (use 'force' to bypass this check): Total quota guarantees"
            raise QuotaError(f"{text} '{shown(total)}' exceed cluster capacity '{shown(capacity)}'", 409)
        self._keep(role, quota)
        self._rescind_for(quota.guarantees, role)
        self._cluster.allocate_soon()

    def remove(self, call: Json) -> None:
        """REMOVE_QUOTA, deprecated. Raises QuotaError."""
        role = call.get("role")
        if role not in self.known:
            raise QuotaError(f"Failed to remove quota: Role '{role}' has no quota set")
        self._keep(str(role), Quota())
        self._cluster.allocate_soon()

    # ---- offers that are out

    def _offers(self) -> list[Offer]:
        return [offer for agent in self._cluster.agents.values() for offer in agent.offers.values()]

    def _rescind(self, role: str, quota: Quota) -> None:
        """Offers of the role until it is within its limits, offers of others until the guarantees can be met."""
        held = plus(consumption(self._cluster, role), offered(self._cluster, role))
        for offer in self._offers():
            if within(quota.limits, held):
                break
            if is_below(offer.role, role):
                held = minus(held, scalars(offer.resources))
                self._cluster.rescind_offer(offer)
        taken: Amounts = {}
        for offer in self._offers():
            if covers(plus(taken, held), quota.guarantees):
                break
            if not is_below(offer.role, role):
                taken = plus(taken, scalars(offer.resources))
                self._cluster.rescind_offer(offer)

    def _rescind_for(self, guarantees: Amounts, role: str) -> None:
        """Of SET_QUOTA: whole agents, until there is enough, and an agent for each framework of the role."""
        frameworks = [f for f in self._cluster.frameworks.values() if f.active and role in f.roles]
        rescinded: Amounts = {}
        visited = 0
        for agent in self._cluster.agents.values():
            if covers(rescinded, guarantees) and visited >= len(frameworks):
                break
            offers = list(agent.offers.values()) if agent.active else []
            for offer in offers:
                rescinded = plus(rescinded, scalars(offer.resources))
                self._cluster.rescind_offer(offer)
            visited += bool(offers)


def _config(quota: Quota) -> Json:
    both = {"guarantees": to_map(quota.guarantees), "limits": to_map(quota.limits)}
    return {name: amounts for name, amounts in both.items() if amounts}


def _legacy(request: Json, before: str) -> Quota:
    error = role_error(str(request.get("role", "")))
    if "role" not in request or error:
        raise QuotaError(
            before + (f"QuotaInfo with invalid role: {error}" if error else "it must specify a role")
        )
    listed: list[Any] = list(request.get("guarantee") or ())
    if not listed:
        raise QuotaError(f"{before}QuotaInfo with empty 'guarantee'")
    try:
        resources = bag(listed)
    except (ValueError, KeyError) as problem:
        raise QuotaError(f"{before}QuotaInfo with invalid resource: {problem}") from problem
    for resource in resources.to_json():
        for field, name in (
            ("reservations", "any ReservationInfo"),
            ("disk", "DiskInfo"),
            ("revocable", "RevocableInfo"),
        ):
            if resource.get(field) is not None:
                raise QuotaError(f"{before}QuotaInfo must not contain {name}")
        if resource["type"] != "SCALAR":
            raise QuotaError(f"{before}QuotaInfo must not include non-scalar resources")
    names = [one["name"] for one in listed]
    for name in names:
        if names.count(name) > 1:
            raise QuotaError(f"{before}QuotaInfo contains duplicate resource name '{name}'")
    return Quota(scalars(resources), scalars(resources))


# ---- who has what


def is_below(role: str, top: str) -> bool:
    """Whether a role is another one, or in its subtree."""
    return role == top or role.startswith(top + "/")


def _of(resources: Iterable[Resources], role: str) -> Amounts:
    """What is allocated to a role and those below it."""
    return breakdown(
        one.filter(lambda shape: is_below((shape.get("allocation_info") or {}).get("role", "*"), role))
        for one in resources
    )


def _reserved_for(resources: Resources, role: str) -> Resources:
    return resources.filter(
        lambda shape: bool(shape.get("reservations")) and is_below(shape["reservations"][-1]["role"], role)
    )


def offered(cluster: Cluster, role: str) -> Amounts:
    return _of((offer.resources for offer in cluster.offers.values()), role)


def allocated(cluster: Cluster, role: str) -> Amounts:
    return _of((used for agent in cluster.agents.values() for used in agent.used()), role)


def reserved(cluster: Cluster, role: str) -> Amounts:
    return breakdown(_reserved_for(agent.total, role) for agent in cluster.agents.values())


def consumption(cluster: Cluster, role: str) -> Amounts:
    """Of a role's quota: what its frameworks use, and what is reserved for it and not used."""
    idle: Amounts = {}
    for agent in cluster.agents.values():
        total = scalars(_reserved_for(agent.total, role))
        if total:
            used = breakdown(_reserved_for(one, role) for one in agent.used())
            idle = plus(idle, minus(total, used))
    return plus(allocated(cluster, role), idle)
