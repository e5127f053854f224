"""FrameworkInfo: on SUBSCRIBE, and what may change later.

Source: Mesos src/master/validation.cpp (namespace `framework`), src/master/master.cpp (`validateFramework`).
"""

from collections.abc import Collection

from local.master.validation.ids import id_error, role_error
from local.wire.proto import Json

# stout's Duration holds 64 bits of nanoseconds.
_MAX_DURATION = (2**63 - 1) / 1e9


def capabilities(info: Json) -> frozenset[str]:
    """The capability names of a framework."""
    return frozenset(c["type"] for c in info.get("capabilities", []) if "type" in c)


def roles(info: Json) -> list[str]:
    """The roles a framework subscribes to."""
    if "MULTI_ROLE" in capabilities(info):
        return list(info.get("roles", []))
    return [info.get("role", "*")]


def braces(names: Collection[str]) -> str:
    """A set as stout prints it."""
    return "{ " + ", ".join(sorted(names)) + " }" if names else "{}"


def framework_error(info: Json, whitelist: frozenset[str] | None, completed: Collection[str]) -> str | None:
    """Why a framework may not subscribe. `whitelist` is --roles; `completed` the ids of removed frameworks."""
    error = _roles_error(info)
    if error:
        return error
    framework_id = info.get("id", {}).get("value", "")
    error = id_error(framework_id) if framework_id else None
    if error:
        return error
    timeout = info["failover_timeout"]
    if not -_MAX_DURATION <= timeout <= _MAX_DURATION:
        return f"The framework failover_timeout ({timeout:.15g}) is invalid"
    if info.get("offer_filters"):
        return "FrameworkInfo.offer_filters are not supported by the embedded Mesos"
    if whitelist is not None:
        unknown = {role for role in roles(info) if role != "*" and role not in whitelist}
        if unknown:
            return f"Roles {braces(unknown)} are not present in the master's --roles"
    if framework_id and framework_id in completed:
        return "Framework has been removed"
    return None


def _roles_error(info: Json) -> str | None:
    if "MULTI_ROLE" not in capabilities(info):
        if info.get("roles"):
            return "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
        error = role_error(info.get("role", "*"))
        return f"'FrameworkInfo.role' is not a valid role: {error}" if error else None
    if "role" in info:
        return "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
    names = info.get("roles", [])
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        return f"'FrameworkInfo.roles' contains duplicate items: {braces(duplicates)}"
    for name in names:
        error = role_error(name)
        if error:
            return f"'FrameworkInfo.roles' contains invalid role: {error}"
    return None


def options_error(info: Json, subscribe: Json) -> str | None:
    """What comes beside the FrameworkInfo in SUBSCRIBE and UPDATE_FRAMEWORK."""
    unknown = set(subscribe.get("suppressed_roles", [])) - set(roles(info))
    if unknown:
        return f"Suppressed roles {braces(unknown)} are not contained in the set of roles"
    if subscribe.get("offer_constraints"):
        return "Offer constraints are not valid: the embedded Mesos does not support them"
    return None


def update_error(old: Json, new: Json) -> str | None:
    """What UPDATE_FRAMEWORK may not change. SUBSCRIBE keeps user and checkpoint instead, see `keep_immutable`."""
    if old.get("principal") != new.get("principal"):
        return "Changing framework's principal is not allowed."
    if old["user"] != new["user"]:
        return (
            "Updating 'FrameworkInfo.user' is unsupported; "
            f"attempted to update from '{old['user']}' to '{new['user']}'"
        )
    if old["checkpoint"] != new["checkpoint"]:
        texts = [str(info["checkpoint"]).lower() for info in (old, new)]
        return (
            "Updating 'FrameworkInfo.checkpoint' is unsupported; "
            f"attempted to update from '{texts[0]}' to '{texts[1]}'"
        )
    return None


def keep_immutable(old: Json, new: Json) -> Json:
    """`new` with the fields that a repeated SUBSCRIBE cannot change."""
    return {**new, "user": old["user"], "checkpoint": old["checkpoint"]}
