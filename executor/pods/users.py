"""Who an app runs as: pod and image say it in names or numbers, the app gets numbers.

Names are looked up in the image's own /etc/passwd and /etc/group, in its layers, before anything is mounted. Rules:
Kubernetes `pkg/kubelet/kuberuntime/security_context.go`, moby `user.GetExecUser` (the primary group and the further
groups of a user come from the image unless the pod says otherwise). Nothing of the image is executed or followed: a
symbolic link in place of one of the two files counts as no file.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.pods.env import ConfigError
from executor.stage1 import userns

MAX_FILE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What setresuid, setresgid and setgroups get."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def resolve(
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    image_user: str,
    image_groups: Sequence[int],
    layers: Sequence[Path],
) -> Identity:
    """The identity of a container. Raises ConfigError for a name the image does not have, or a broken runAsNonRoot.

    image_user: `user[:group]` as the image has it. layers: rendered trees of the image, uppermost first.
    """
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    user_text, _, group_text = image_user.partition(":")
    as_user, as_group = context.get("runAsUser"), context.get("runAsGroup")
    if as_user is not None:
        user_text, group_text = str(as_user), ""  # an image's group belongs to the image's user
    if as_group is not None:
        group_text = str(as_group)
    user_text = user_text or "0"
    if context.get("runAsNonRoot"):
        _check_non_root(user_text, as_user)
    passwd, group = _read(layers, "etc/passwd"), _read(layers, "etc/group")
    user = _user(user_text, passwd, layers)
    gid = user.gid if not group_text else _group(group_text, group, layers)
    extra = [int(context["fsGroup"])] if context.get("fsGroup") is not None else []
    extra += [int(g) for g in (*(context.get("supplementalGroups") or ()), *image_groups)]
    merged = context.get("supplementalGroupsPolicy") != "Strict"
    groups = dict.fromkeys([*extra, *(_memberships(user.name, group) if merged else ())])
    return Identity(user.uid, gid, tuple(g for g in groups if g != gid))


def _check_non_root(user: str, as_user: int | None) -> None:
    if as_user == 0:
        raise ConfigError("container's runAsUser breaks non-root policy")
    if _number(user) is None:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        )
    if _number(user) == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int


def _user(text: str, passwd: list[list[str]], layers: Sequence[Path]) -> _User:
    if text.startswith("/"):
        text = str(_owner(text, layers).st_uid)
    number = _number(text)
    for entry in passwd:
        # A number is always an id, as docker has it: an entry may have the name "7", and 0 for its id.
        if len(entry) >= 4 and (entry[0] == text if number is None else _is(entry[2], number)):
            uid, gid = _number(entry[2]), _number(entry[3])
            if uid is not None and gid is not None:
                return _User(entry[0], uid, gid)
    if number is not None:
        return _User("", number, 0)
    raise ConfigError(f"user {text!r}: the image's /etc/passwd does not have it")


def _is(text: str, number: int) -> bool:
    try:
        return userns.number(text) == number
    except ValueError:
        return False


def _number(text: str) -> int | None:
    """The id that a user or group is, None for a name. Raises ConfigError for a number that is none."""
    try:
        return userns.number(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _group(text: str, group: list[list[str]], layers: Sequence[Path]) -> int:
    if text.startswith("/"):
        return _owner(text, layers).st_gid
    if (number := _number(text)) is not None:
        return number
    for entry in group:
        if len(entry) >= 3 and entry[0] == text and (gid := _number(entry[2])) is not None:
            return gid
    raise ConfigError(f"group {text!r}: the image's /etc/group does not have it")


def _owner(path: str, layers: Sequence[Path]) -> os.stat_result:
    """The file whose owner is meant (appc `spec/aci.md`: user and group may be a path)."""
    for layer in layers:
        try:
            return os.lstat(os.path.join(layer, os.path.normpath(path).lstrip("/")))
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise ConfigError(f"user of {path}: the image has no such file")


def _memberships(name: str, group: list[list[str]]) -> list[int]:
    found = [_number(entry[2]) for entry in group if name and len(entry) >= 4 and name in entry[3].split(",")]
    return [gid for gid in found if gid is not None]


def _read(layers: Sequence[Path], name: str) -> list[list[str]]:
    """The file of the uppermost layer that has it, as fields; [] when there is none or it is no plain file."""
    for layer in layers:
        path = os.path.join(layer, name)
        try:
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(info.st_mode) or os.path.islink(os.path.dirname(path)) or info.st_size > MAX_FILE:
            return []  # also a whiteout: a character device that hides the file below
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n").split(":") for line in file]
    return []
