"""What this machine can do, flavor by flavor: found out by trying, wherever that is possible."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from executor.kvm import equipment, kernel, probe
from executor.kvm.kernel import KernelError
from executor.kvm.machine import KVM
from executor.kvm.probe import ProbeError
from executor.kvm.runtime import RuntimeFailure
from executor.network import trial
from executor.network.taps import TUN
from executor.pods import apparmor
from executor.pods.launcher import Launcher, LaunchError
from executor.stage1 import caps, cgroups, lsm, nspawn, seccomp, userns

BOOT_SECONDS: Final = 60.0
"""For an emulated machine on a busy host."""
CONTROLLERS: Final = {"cpu": "cpu limits", "memory": "memory limits", "pids": "limits of processes"}
Flavors = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Check:
    """needed: the flavor does not work without it. why: what is wrong, "" when it is fine, and what is lost by that."""

    name: str
    needed: bool
    why: str


async def examine(state_dir: Path, given_kernel: Path | None = None) -> Flavors:
    """The checks of each flavor, as plain values. given_kernel: of virtual machines."""
    common = [*await _launcher(), _capabilities(), *_cgroups(), _disk(state_dir)]
    confined = [_needed("seccomp filters", seccomp.why_not())]
    confined += [_optional(module, lsm.why_not(module)) for module in (lsm.APPARMOR, lsm.SELINUX)]
    if not lsm.why_not(lsm.APPARMOR):
        confined.append(_optional(f"AppArmor profile {lsm.DEFAULT_PROFILE}", apparmor.why_not()))
    users = _optional("user namespaces", _users(state_dir))
    machined = _optional(
        "systemd-machined", "" if nspawn.registers() else "systemd does not run: not in machinectl"
    )
    why = await asyncio.to_thread(trial.why_not)
    networks = _optional("networks of `gantry rkt`", f"{why}: --net=none and --net=host only" if why else "")
    return {flavor: [asdict(one) for one in checks] for flavor, checks in (
        ("linux", [*common, users, networks, *confined]),
        ("fly", common),
        ("nspawn", [*common, _needed(nspawn.PROGRAM, nspawn.why_not()), machined, networks, *confined]),
        (KVM, [*common, users, networks, confined[0], *await asyncio.to_thread(_machines, given_kernel)]),
    )}  # fmt: skip


def works(checks: list[dict[str, Any]]) -> bool:
    """Whether nothing is missing that the flavor needs."""
    return not any(one["needed"] and one["why"] for one in checks)


def text(flavors: Flavors) -> str:
    """The checks as lines."""
    lines = []
    for flavor, checks in flavors.items():
        lines.append(f"{flavor}: {'works' if works(checks) else 'does not work'}")
        for one in checks:
            mark = "ok     " if not one["why"] else "MISSING" if one["needed"] else "without"
            lines.append(f"  {mark} {one['name']}" + (f": {one['why']}" if one["why"] else ""))
    return "\n".join(lines) + "\n"


def _needed(name: str, why: str) -> Check:
    return Check(name, needed=True, why=why)


def _optional(name: str, why: str) -> Check:
    return Check(name, needed=False, why=why)


async def _launcher() -> list[Check]:
    """Root, capabilities, the kernel's mount calls, overlay: the launcher says itself what it lacks."""
    try:
        launcher = await Launcher.start(spares=0)
    except LaunchError as error:
        return [_needed("the launcher", str(error))]
    await launcher.close()
    return [_needed("the launcher", "")]


def _capabilities() -> Check:
    """What apps without a user namespace get is what the executor has itself: as isolator, or by being privileged."""
    known = caps.mask(caps.NAMES) & ((2 << caps.last_cap()) - 1)
    missing = caps.lacking(known)
    usual = [name for name in missing if name in caps.DEFAULT]
    why = f"the executor would lack {', '.join(missing)}: apps without users of their own that ask for them fail"
    if usual:
        why += f"; all apps get {', '.join(usual)}, unless they drop it"
    return _optional("capabilities to give", why if missing else "")


def _cgroups() -> list[Check]:
    try:
        layout = cgroups.detect(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    except cgroups.CgroupError as error:
        return [_needed("cgroups", str(error))]
    made = [_needed(f"cgroups (version {layout.version})", "")]
    if layout.version == 1:
        there = set(layout.base)
    else:
        parent = os.path.dirname(next(iter(layout.base.values())))
        there = set(_read(f"{parent}/cgroup.controllers").split())
    for name, lost in CONTROLLERS.items():
        why = "" if name in there else f"the controller is not mounted: pods with {lost} fail"
        if why and name == "pids":
            why += ", which is all of them without --pod-max-pids 0"
        made.append(_optional(f"cgroup controller {name}", why))
    block = {"blkio", "io"} & there
    made.append(_optional("cgroup controller for disks", "" if block else "no limits on the use of disks"))
    return made


def _machines(given_kernel: Path | None) -> list[Check]:
    """What virtual machines are made of, and that one starts: slow, some seconds."""
    made = [
        _needed("QEMU and virtiofsd", _reason(probe.tools)),
        _needed("a kernel for machines", _reason(lambda: kernel.find(given_kernel))),
        _optional(TUN, "" if os.path.exists(TUN) else "there is none: machines have no network but loopback"),
    ]
    if any(one.needed and one.why for one in made):
        return made
    with tempfile.TemporaryDirectory() as directory:
        try:
            found = equipment.find(Path(directory), given_kernel)
        except (ProbeError, KernelError, RuntimeFailure, OSError) as error:
            return [*made, _needed("a machine that starts", str(error))]
        why = found.how.why and probe.try_boot(
            *(found.tools.qemu, found.boot.kernel, ["-accel", found.how.name, "-cpu", found.how.cpu]),
            found.how.parameters,
            BOOT_SECONDS,
        )
    slow = found.how.why and f"{found.how.why}; machines are emulated, several times slower"
    return [*made, _needed("a machine that starts", why), _optional("KVM", slow)]


def _disk(state_dir: Path) -> Check:
    return _optional(
        "limits on the disk of the state directory",
        _reason(lambda: cgroups.disk_below(str(_there(state_dir)))),
    )


def _users(state_dir: Path) -> str:
    if why := userns.why_not():
        return why
    place = _there(state_dir)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        if userns.Mappable().can_map(directory, recursive=False):
            return ""
    return (
        f"the file system of {place} cannot be id-mapped: pods do without, those with hostUsers: false fail"
    )


def _there(path: Path) -> Path:
    """The path, or its nearest parent that is there already."""
    while not path.exists():
        path = path.parent
    return path


def _reason(trial: Callable[[], object]) -> str:
    try:
        trial()
    except (OSError, cgroups.CgroupError, ProbeError, KernelError) as error:
        return str(error)
    return ""


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
