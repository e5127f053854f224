"""What the master shows of roles: GET_ROLES and /roles. Pure.

Source: Mesos src/master/readonly_handler.cpp (`getRoles`, `roles`), src/master/master.cpp (`knownRoles`).
"""

from local.master import quota
from local.master.cluster import Cluster
from local.master.quantities import Amounts, Quota, plus
from local.wire.proto import Json


def known(cluster: Cluster) -> list[str]:
    """Roles that frameworks, reservations or quotas name, and those above them; --roles when that is given."""
    if cluster.flags.roles is not None:
        named = set(cluster.flags.roles)
    else:
        named = {role for framework in cluster.frameworks.values() for role in framework.roles}
        named |= cluster.quotas.keys()
        for agent in cluster.agents.values():
            named |= {one["role"] for part in agent.total.split() for one in part.reservations()[-1:]}
    for role in list(named):
        parts = role.split("/")
        named |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    return sorted(named)


def _members(cluster: Cluster, role: str) -> list[str]:
    return [one.framework_id for one in cluster.frameworks.values() if role in one.roles]


def get_roles(cluster: Cluster) -> Json:
    return {"roles": [_role(cluster, name) for name in known(cluster)]}


def _role(cluster: Cluster, name: str) -> Json:
    held = plus(quota.allocated(cluster, name), quota.offered(cluster, name))
    resources = [
        {"name": one, "type": "SCALAR", "scalar": {"value": amount / 1000}} for one, amount in held.items()
    ]
    members = [{"value": one} for one in _members(cluster, name)]
    result = {"name": name, "weight": 1.0, "frameworks": members, "resources": resources}
    return {key: value for key, value in result.items() if value != []}


def roles(cluster: Cluster) -> Json:
    return {"roles": [_full(cluster, name) for name in known(cluster)]}


def _full(cluster: Cluster, name: str) -> Json:
    own = cluster.quotas.get(name, Quota())
    allocated, offered = quota.allocated(cluster, name), quota.offered(cluster, name)
    return {
        "name": name,
        "weight": 1.0,
        "quota": {
            "role": name,
            "guarantee": _numbers(own.guarantees),
            "limit": _numbers(own.limits),
            "consumed": _numbers(quota.consumption(cluster, name)),
        },
        "resources": _numbers(plus(allocated, offered)),
        "allocated": _numbers(allocated),
        "offered": _numbers(offered),
        "reserved": _numbers(quota.reserved(cluster, name)),
        "frameworks": _members(cluster, name),
    }


def _numbers(amounts: Amounts) -> Json:
    return {name: amount / 1000 for name, amount in sorted(amounts.items())}
