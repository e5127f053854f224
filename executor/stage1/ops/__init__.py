"""Mounts, namespaces and cgroup writes of a pod as data: what can be printed before it is executed.

An operation is a tuple with `describe()` (one line, for people) and `execute(context)` (the system calls).
They refer to what earlier ones opened by name in the context. Order and choice are `plan`'s business.
"""

from typing import Any, Final

from executor.stage1.ops.base import IN_ROOT, Context, Op, StageError, execute, open_or_make
from executor.stage1.ops.process import (
    REPORTS,
    ActAs,
    Enter,
    JoinCgroup,
    Loopback,
    OomScore,
    ReportAtOnce,
    SetHostname,
    SetLabel,
    SetSysctls,
    Terminal,
    Unshare,
    UnshareUsers,
)
from executor.stage1.ops.roots import (
    FURTHER,
    NULL,
    PLACES,
    ChangeRoot,
    MountLayers,
    MountRoot,
    NewGround,
    OpenNull,
    SealGround,
    TakeLayers,
)
from executor.stage1.ops.sandbox import DIRECTORIES, MORE, Hide, MakeReadOnly, MountNew, NewRoot, SealRoot
from executor.stage1.ops.trees import (
    Attach,
    CheckPropagation,
    MakePlace,
    MountDev,
    MountOverlay,
    OpenDevices,
    OwnVolume,
    PivotRoot,
    ReadOnlyRoot,
    TakeOverlay,
    TakeTree,
    TakeVolume,
)

__all__ = [
    "DIRECTORIES", "FURTHER", "IN_ROOT", "MORE", "NULL", "PLACES", "REPORTS", "ActAs", "Attach", "ChangeRoot",
    "CheckPropagation", "Context", "Enter", "Hide", "JoinCgroup", "Loopback", "MakePlace", "MakeReadOnly",
    "MountDev", "MountLayers", "MountNew", "MountOverlay", "MountRoot", "NewGround", "NewRoot", "OomScore", "Op",
    "OpenDevices", "OpenNull", "OwnVolume", "PivotRoot",
    "ReadOnlyRoot", "ReportAtOnce", "SealGround", "SealRoot",
    "SetHostname", "SetLabel",
    "SetSysctls", "StageError", "TakeLayers", "TakeOverlay", "TakeTree", "TakeVolume", "Terminal", "Unshare",
    "UnshareUsers", "execute", "open_or_make", "pack", "unpack",
]  # fmt: skip

_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        Unshare, UnshareUsers, ActAs, Enter, TakeTree, TakeVolume, CheckPropagation, OwnVolume, Attach, MountDev,
        MakePlace, TakeLayers, MountRoot, MountLayers, ChangeRoot, OpenDevices, OpenNull, ReadOnlyRoot,
        JoinCgroup, OomScore, SetLabel,
        PivotRoot, SetHostname, SetSysctls, Loopback, ReportAtOnce, NewRoot, MountNew, Hide, MakeReadOnly,
        SealRoot, Terminal,
    )
}  # fmt: skip


def pack(ops: "list[Op]") -> list[Any]:
    """A plan as plain tuples, for `marshal`."""
    return [(type(op).__name__, *op) for op in ops]  # type: ignore[misc]  # every kind is a NamedTuple


def unpack(data: list[Any]) -> "list[Op]":
    """The plan that `pack` packed."""
    return [_KINDS[name](*fields) for name, *fields in data]
