"""Which seccomp filter a container asks for, as the isolator that stage1 enforces.

A container that says nothing gets its flavor's own: in `linux` an allow-list, in `fly` none. `Localhost` names a
profile below a directory of this machine, as the kubelet's `seccomp` directory (Kubernetes tutorial "Restrict a
Container's Syscalls with seccomp"); the path must stay inside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from executor.pods.env import ConfigError
from executor.stage1.seccomp import SeccompError, from_profile

DEFAULT_PROFILES: Final = Path("/var/lib/gantry/seccomp")
Isolator = dict[str, Any]


def isolator(container: Mapping[str, Any], spec: Mapping[str, Any], profiles: Path) -> list[Isolator]:
    """The filter of the container, or else of the pod; nothing when neither says. Raises ConfigError."""
    own = (container.get("securityContext") or {}).get("seccompProfile")
    profile = own or (spec.get("securityContext") or {}).get("seccompProfile")
    if not profile:
        return []
    kind = profile.get("type")
    if kind == "RuntimeDefault":
        return [{"name": "os/linux/seccomp-remove-set", "value": {"set": ["@appc.io/empty"]}}]
    if kind == "Unconfined":
        return [{"name": "os/linux/seccomp-retain-set", "value": {"set": ["@appc.io/all"]}}]
    if kind == "Localhost":
        return [
            {
                "name": "gantry.io/seccomp-profile",
                "value": _read(str(profile.get("localhostProfile")), profiles),
            }
        ]
    raise ConfigError(f"seccompProfile.type {kind!r}: not one of RuntimeDefault, Localhost, Unconfined")


def _read(name: str, profiles: Path) -> Any:
    path = (profiles / name).resolve()
    if not path.is_relative_to(profiles.resolve()):
        raise ConfigError(f"seccompProfile.localhostProfile {name!r}: leads out of {profiles}")
    try:
        profile = json.loads(path.read_bytes())
        from_profile(profile)
    except OSError as error:
        raise ConfigError(f"seccompProfile.localhostProfile {name!r}: {path}: {error.strerror}") from None
    except ValueError as error:
        what = str(error) if isinstance(error, SeccompError) else f"not JSON: {error}"
        raise ConfigError(f"seccompProfile.localhostProfile {name!r}: {what}") from None
    return profile
