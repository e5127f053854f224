"""Users and groups as the image knows them: looked up in the app's root, never on the host."""

import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from executor.stage1 import syscalls, userns
from executor.stage1.ops import IN_ROOT, StageError

SHELL: Final = "/bin/sh"
IDENTITIES: Final = ("etc/passwd", "etc/group")
TO_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_LIMIT: Final = 1 << 20
_SMALL: Final = 1 << 13
"""Larger files are not remembered: the memory for that would be the node's, not the pod's."""


class Identity(NamedTuple):
    """Numeric ids of a process, and what the image says of its user: home directory ("/" when it has none), name (""
    when it has none), shell."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str = ""
    shell: str = SHELL


def resolve(
    root: int,
    user: str,
    group: str,
    extra: tuple[int, ...],
    *,
    strict: bool = False,
    ids: int = 0,
    files: Sequence[int] = (),
) -> Identity:
    """Ids of `user` and `group` (numbers, names, or the path of a file whose owner is meant: appc aci.md).

    `ids`: what is 0 in the pod's user namespace, in which we are not yet; 0 when it has none.

    `files`: descriptors of IDENTITIES, if they were opened already; -1 for one that is not there.

    An image without /etc/passwd is fine as long as only numbers are used. `strict`: no groups that only the image says
    the user is in. Raises StageError.
    """
    try:
        return _resolve(root, user, group, extra, strict, ids, files)
    except ValueError as error:
        raise StageError(f"user {user[:40]}, group {group[:40]}: {error}") from None


def _resolve(
    root: int, user: str, group: str, extra: tuple[int, ...], strict: bool, ids: int, files: Sequence[int]
) -> Identity:
    passwd, groups = map(_text, files) if files else (_text(_open(root, path)) for path in IDENTITIES)
    uid = _inside(user, _owner(root, user).st_uid, ids) if user.startswith("/") else -1
    gid = _inside(group, _owner(root, group).st_gid, ids) if group.startswith("/") else -1
    look_up = _look_up if len(passwd) + len(groups) <= _SMALL else _look_up.__wrapped__
    return look_up(passwd, groups, user, group, extra, strict, uid, gid)


@lru_cache(maxsize=64)
def _look_up(
    passwd: str,
    group_file: str,
    user: str,
    group: str,
    extra: tuple[int, ...],
    strict: bool,
    uid: int,
    gid: int,
) -> Identity:
    """By the texts of two files. uid, gid: of users and groups that are neither numbers nor names, else -1."""
    records = list(_records(passwd, 6))
    record = next((r for r in records if r[2 if _is_number(user) else 0] == user), None)
    if uid >= 0:
        pass
    elif (given := userns.number(user)) is not None:
        uid = given
    elif record is not None and (known := userns.number(record[2])) is not None:
        uid = known
    elif user == "root":
        uid = 0  # wherever Linux runs, and as in rkt
    else:
        raise StageError(f'"{user}" user not found: the image\'s /etc/passwd has no such user')
    groups = set(extra)
    if gid >= 0:
        pass
    elif (given := userns.number(group)) is not None:
        gid = given
    else:
        gid = _group(group_file, group)
    if record is not None and not _is_number(record[0]) and not strict:
        groups.update(_memberships(group_file, record[0]))
    if record is None or not _is_number(record[2]):
        record = next((r for r in records if r[2] == str(uid)), None)  # of whom a file belongs to, say
    home = record[5] if record is not None and record[5].startswith("/") else ("/root" if uid == 0 else "/")
    name = record[0] if record is not None else ("root" if uid == 0 else "")
    shell = record[6] if record is not None and len(record) > 6 and record[6].startswith("/") else SHELL
    return Identity(uid, gid, tuple(sorted(groups - {gid})), home, name, shell)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _group(text: str, name: str) -> int:
    for record in _records(text, 3):
        if record[0] == name and (gid := userns.number(record[2])) is not None:
            return gid
    if name == "root":
        return 0
    raise StageError(f'"{name}" group not found: the image\'s /etc/group has no such group')


def _memberships(text: str, user: str) -> Iterator[int]:
    for record in _records(text, 4):
        if user in record[3].split(",") and (gid := userns.number(record[2])) is not None:
            yield gid


def _owner(root: int, path: str) -> os.stat_result:
    try:
        fd = syscalls.openat2(root, path, os.O_PATH, IN_ROOT)
    except OSError as error:
        raise StageError(f"user of {path}: {os.strerror(error.errno or 0)}") from None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _inside(path: str, owner: int, ids: int) -> int:
    """The owner of a file as the pod sees it."""
    if ids and not ids <= owner < ids + userns.SIZE:
        raise StageError(f"user of {path}: the pod's user namespace does not have its id")
    return owner - ids


def _open(root: int, path: str) -> int:
    """-1 when it is missing."""
    try:
        return syscalls.openat2(root, path, TO_READ, IN_ROOT)
    except OSError:
        return -1


def _text(fd: int) -> str:
    """Of an open file, which is closed; nothing for one that is missing or not a regular one."""
    if fd < 0:
        return ""
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return (file.read(_LIMIT) or b"").decode("utf-8", "surrogateescape")


def _records(text: str, fields: int) -> Iterator[list[str]]:
    """Records with at least `fields` fields."""
    for line in text.splitlines():
        record = line.split(":")
        if len(record) >= fields:
            yield record
