"""Pure: a manifest and some paths in, operations out. Nothing here touches the system.

A pod's plan is executed by its init: it builds the namespaces and, in a mount namespace with a root of its
own, what the apps share (proc, sys, shm, mqueue, memory volumes). An app's plan is executed by the process
that will start the app: it takes copies of all the mounts that the app gets where they are, at home, on the host and
in the pod, and puts them together in a namespace in which there is nothing else (see `ops.roots`).

Nothing needs to be made private: the launcher's mounts are slaves of the host's, so nothing of ours travels
there, and only mounts of our own making are in a pod's.
"""

import os
from typing import Final, NamedTuple

from executor.stage1 import caps, lsm, ops, seccomp, syscalls
from executor.stage1.manifest import ETC, App, Mount, Pod, Volume
from executor.stage1.ops import Op, StageError
from executor.stage1.process import Process
from executor.stage1.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

# Covered by the pod's own root while that is built: every Linux has it, and init's namespace has no other use for it.
STAGE: Final = "/sys"

ROOT: Final = "the root"
"""What an app's layers are called among the descriptors."""

# rkt's and the OCI runtimes' lists (rkt-1.30 stage1/init/common/app.go; runc libcontainer/specconv/example.go).
_HIDDEN: Final = (
    "proc/acpi proc/asound proc/config.gz proc/interrupts proc/kallsyms proc/kcore proc/keys proc/kmem "
    "proc/latency_stats proc/mem proc/sched_debug proc/scsi proc/timer_list proc/timer_stats "
    "sys/firmware sys/fs sys/hypervisor sys/module sys/power sys/devices/virtual/powercap"
)
HIDDEN: Final = tuple(_HIDDEN.split())
READ_ONLY: Final = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")

SHM: Final = "mode=1777,size=64m"
_PROC_FLAGS: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


class Paths(NamedTuple):
    """A pod directory, in rkt's layout (docs/stage1-interface.md)."""

    pod: str

    def upper(self, app: str) -> str:
        return f"{self.pod}/overlay/{app}/upper"

    def work(self, app: str) -> str:
        return f"{self.pod}/overlay/{app}/work"

    def volume(self, name: str) -> str:
        return f"{self.pod}/sharedVolumes/{name}"

    def etc(self, name: str) -> str:
        return f"{self.pod}/etc/{name}"

    def lowers(self, app: str) -> str:
        return f"{self.pod}/appsinfo/{app}/lower"

    def status(self, name: str) -> str:
        return f"{self.pod}/stage1/rootfs/rkt/status/{name}"


def sandbox_plan(flavor: str, *, host_network: bool, ids: int = 0, host_ipc: bool = False) -> list[Op]:
    """What init does before it knows which pod it is for (so that it can be done in advance).

    `ids`: the first of its user namespace; 0 for none. The mount namespace is never the apps' to change.
    """
    if flavor == "fly":
        return []
    if flavor == "nspawn":  # that made the namespaces
        return [ops.Unshare(syscalls.CLONE_NEWNS, "the mount namespace"), *_own_root()]
    flags, names = syscalls.CLONE_NEWUTS, "uts"
    if not host_ipc:
        flags, names = flags | syscalls.CLONE_NEWIPC, "ipc, uts"
    if not host_network:
        flags, names = flags | syscalls.CLONE_NEWNET, names + ", net"
    return [
        *([ops.UnshareUsers(flags, f"the {names} namespaces", ids)] if ids else []),
        *([ops.ReportAtOnce()] if ids and not host_network else []),
        ops.Unshare(
            syscalls.CLONE_NEWNS | (0 if ids else flags),
            f"the {'mount' if ids else f'mount, {names}'} namespaces",
        ),
        *([] if host_network else [ops.Loopback()]),
        *_own_root(),
    ]


def _own_root() -> list[Op]:
    """What the apps of a pod share, and nothing else, as the root of its init."""
    return [
        ops.NewRoot(STAGE),
        ops.MountNew("proc", "proc", _PROC_FLAGS),
        ops.MountNew("sysfs", "sys", _PROC_FLAGS | MS_RDONLY),
        ops.MountNew("mqueue", "mqueue", _PROC_FLAGS),
        ops.MountNew("tmpfs", "shm", _PROC_FLAGS, SHM),
        ops.Hide(HIDDEN),
        ops.MakeReadOnly(READ_ONLY),
        ops.PivotRoot(),
    ]


def pod_plan(pod: Pod) -> list[Op]:
    """What init does once it knows its pod."""
    plan: list[Op] = []
    if pod.flavor == "fly":
        if not any(volume.memory for volume in pod.volumes.values()):
            return []  # nothing to share, so no mount namespace to share it in
        flags = syscalls.CLONE_NEWNS
        plan = [
            ops.Unshare(flags, "the mount namespace"),
            ops.NewRoot(STAGE),
            ops.PivotRoot(),
        ]
    else:
        if pod.hostname:
            plan.append(ops.SetHostname(pod.hostname))
        if pod.any_privileged:
            plan.append(ops.MountNew("proc", f"{ops.MORE}/proc.privileged", _PROC_FLAGS))
            plan.append(ops.MountNew("sysfs", f"{ops.MORE}/sys.privileged", _PROC_FLAGS))
        if any(app.whole_proc for app in pod.apps.values()):
            plan.append(ops.MountNew("proc", f"{ops.MORE}/proc.unmasked", _PROC_FLAGS))
    if pod.sysctls:
        plan.append(ops.SetSysctls(pod.sysctls))
    for volume in pod.volumes.values():
        if volume.memory:
            size = "" if volume.size is None else f",size={volume.size}"
            data = f"mode={volume.mode:o},uid={pod.ids + volume.uid},gid={pod.ids + volume.gid}{size}"
            place = f"{ops.MORE}/volume.{volume.name}"
            plan.append(ops.MountNew("tmpfs", place, MS_NOSUID | MS_NODEV, data))
    plan.append(ops.SealRoot())
    return plan


def app_plan(pod: Pod, app: App, paths: Paths, lowers: tuple[str, ...], members: tuple[str, ...]) -> list[Op]:
    """From the image's layers to a process that stands in the app's root, cgroup and namespaces."""
    linux = pod.isolated
    plan: list[Op] = []
    if app.oom_score_adj is not None:
        plan.append(ops.OomScore(app.oom_score_adj))
    if app.label is not None:
        plan.append(ops.SetLabel(*app.label))
    above, work = os.path.split(paths.work(app.name))
    plan.append(ops.TakeLayers(ROOT, lowers, above, work))
    plan += _volumes(pod, app, paths)
    plan += _shared(pod, app)
    plan += [ops.Enter("ground", syscalls.CLONE_NEWNS), ops.Unshare(syscalls.CLONE_NEWNS, "a copy of it")]
    if _own_proc(pod, app) == "masked":
        plan.append(ops.OpenNull())
    if pod.ids:
        plan.append(ops.ActAs(pod.ids))
    device_files, mapped = app.privileged or not linux, bool(pod.ids)
    label = lsm.files_context(app.label)
    plan.append(ops.MountRoot(ROOT, len(lowers), device_files, mapped, label, pod.user_attributes))
    plan += [ops.OwnVolume(path) for path in app.own_volumes]
    plan += _system(pod, app) if linux else _host_system()
    plan += [ops.Attach(f"etc/{name}", f"etc/{name}", mapped=mapped) for name in _etc(app)]
    for mount in app.mounts:
        volume = pod.volumes[mount.volume]
        if _is_image(volume):
            plan.append(ops.MountLayers(f"volume:{mount.path}", len(volume.layers), mapped))
        plan.append(_attach(mount, volume, device_files, mapped=mapped))
    if app.read_only_root:
        plan.append(ops.ReadOnlyRoot())
    # As late as possible: what is charged to the app's memory limit should be the app's.
    plan.append(ops.JoinCgroup(members, namespace=linux))
    plan.append(ops.ChangeRoot())
    return plan


def enter_plan(pod: Pod, app: App, members: tuple[str, ...]) -> list[Op]:
    """Into a running app: the same cgroup, namespaces and root as its main process has (`app` names that one)."""
    plan: list[Op] = [] if app.oom_score_adj is None else [ops.OomScore(app.oom_score_adj)]
    if app.label is not None:
        plan.append(ops.SetLabel(*app.label))
    flags = syscalls.CLONE_NEWNS
    if pod.isolated:
        flags |= syscalls.CLONE_NEWCGROUP | _own_namespaces(pod)
    if pod.ids:
        plan.append(ops.ActAs(pod.ids))
    return [*plan, ops.JoinCgroup(members, namespace=False), ops.Enter("app", flags)]


def app_process(pod: Pod, app: App) -> Process:
    """The app's main process; what is executed into the app later differs in `argv` alone, or says how."""
    environment = {"container": "gantry"}
    if pod.isolated and pod.hostname:
        environment["HOSTNAME"] = pod.hostname
    environment.update(app.environment)
    environment["AC_APP_NAME"] = app.name  # these two are ours to say (appc ace.md; rkt-1.30 does the same)
    if pod.metadata_url:
        environment["AC_METADATA_URL"] = pod.metadata_url
    capabilities = app.capabilities
    if app.privileged:
        capabilities = None
    elif capabilities is None and pod.isolated:
        capabilities = caps.DEFAULT
    return Process(
        argv=app.exec,
        environment=tuple(environment.items()),
        user=app.user,
        group=app.group,
        supplementary_gids=app.supplementary_gids,
        directory=app.working_directory,
        capabilities=None if capabilities is None else caps.mask(capabilities),
        no_new_privileges=app.no_new_privileges,
        seccomp=_seccomp(pod, app),
        ids=pod.ids,
        rlimits=app.rlimits,
        strict_groups=app.strict_groups,
        own_proc=_own_proc(pod, app),
        over_proc=_over_proc(pod, app),
        makes_directory=app.makes_directory,
    )


def _own_proc(pod: Pod, app: App) -> str:
    """Of what kind, when the app has processes of its own."""
    if not pod.own_processes:
        return ""
    return "whole" if app.privileged or app.whole_proc else "masked"


def _over_proc(pod: Pod, app: App) -> tuple[str, ...]:
    """What is mounted where the app's own /proc will be: it is above that afterwards, too."""
    if not pod.own_processes:
        return ()
    paths = ("/" + os.path.normpath(mount.path).strip("/") for mount in app.mounts)
    return tuple(path for path in paths if f"{path}/".startswith("/proc/"))


def _has_pods_proc(pod: Pod, app: App) -> bool:
    """Not if it will have its own (`Process.own_proc`); but volumes below that need a place until then."""
    return not pod.own_processes or bool(_over_proc(pod, app))


def seccomp_filter(pod: Pod, app: App) -> seccomp.Filter | None:
    """What was asked for, else the default of flavor `linux`. A privileged app has none."""
    if app.privileged or (app.default_seccomp and not pod.isolated):
        return None
    if app.default_seccomp:
        return seccomp.default_filter(caps.DEFAULT if app.capabilities is None else app.capabilities)
    return app.seccomp


def _seccomp(pod: Pod, app: App) -> bytes:
    wanted = seccomp_filter(pod, app)
    if wanted is None:
        return b""
    try:
        return seccomp.compile_filter(wanted)
    except seccomp.SeccompError as error:
        raise StageError(f"app {app.name}: {error}") from None


def _own_namespaces(pod: Pod) -> int:
    """Those that its apps share and the host does not have (of a flavor that has any)."""
    flags = syscalls.CLONE_NEWUTS
    flags |= 0 if pod.host_pid else syscalls.CLONE_NEWPID
    flags |= 0 if pod.host_ipc else syscalls.CLONE_NEWIPC
    return flags | (0 if pod.host_network else syscalls.CLONE_NEWNET)


def _shared(pod: Pod, app: App) -> list[Op]:
    """Join the pod's namespaces, and take copies of its own mounts."""
    memory = sorted({mount.volume for mount in app.mounts if pod.volumes[mount.volume].memory})
    flags = syscalls.CLONE_NEWNS
    plan: list[Op] = []
    if pod.isolated:
        flags |= _own_namespaces(pod)
        more = f"/{ops.MORE}/"
        proc, sys = (f"{more}{one}.privileged" if app.privileged else f"/{one}" for one in ("proc", "sys"))
        if app.whole_proc:
            proc = f"{more}proc.unmasked"
        plan = [
            *([ops.TakeTree("proc", proc)] if _has_pods_proc(pod, app) else []),
            ops.TakeTree("sys", sys),
            ops.TakeTree("mqueue", "/mqueue"),
            *([] if pod.host_ipc else [ops.TakeTree("shm", "/shm")]),
        ]
    elif not memory:
        return []
    for mount in app.mounts:
        if mount.volume in memory:
            plan.append(_take(mount, f"/{ops.MORE}/volume.{mount.volume}", recursive=False))
    if memory and pod.ids:
        plan = [ops.ActAs(pod.ids), *plan, ops.ActAs(0)]  # paths that are made in them
    return [ops.Enter("init", flags), *plan]


def _volumes(pod: Pod, app: App, paths: Paths) -> list[Op]:
    """Copies of the other volumes, at home, and of the host's in its mount namespace: all of it is there."""
    host: list[Op] = []
    own: list[Op] = []
    if pod.flavor == "fly":
        host += [ops.TakeTree(name, f"/{name}") for name in ("proc", "sys", "dev")]
    elif pod.host_ipc:
        host.append(ops.TakeTree("shm", "/dev/shm", recursive=False))
    for mount in app.mounts:
        volume = pod.volumes[mount.volume]
        if _is_image(volume):
            own.append(ops.TakeLayers(f"volume:{mount.path}", volume.layers))
        elif volume.kind == "host":
            if mount.propagation:
                host.append(ops.CheckPropagation(volume.source, mount.propagation == "both"))
            host.append(_take(mount, volume.source, recursive=volume.recursive))
        elif not volume.memory:
            own.append(_take(mount, paths.volume(volume.name), recursive=False))
    own += [ops.TakeTree(f"etc/{name}", paths.etc(name), recursive=False) for name in _etc(app)]
    if app.privileged and pod.isolated:
        own.append(ops.OpenDevices())
    return [*own, ops.Enter("host", syscalls.CLONE_NEWNS), *host] if host else own


def _is_image(volume: Volume) -> bool:
    """Of several layers: one is taken like a directory."""
    return len(volume.layers) > 1


def _etc(app: App) -> list[str]:
    """The files of /etc that are ours to give: those no volume is mounted on, and that are not the image's."""
    taken = {mount.path.rstrip("/") for mount in app.mounts}
    return [name for name in ETC if f"/etc/{name}" not in taken and name not in app.image_files]


def _take(mount: Mount, source: str, *, recursive: bool) -> Op:
    return ops.TakeVolume(f"volume:{mount.path}", source, mount.sub_path, recursive)


def _attach(mount: Mount, volume: Volume, device_files: bool, *, mapped: bool) -> Op:
    attributes = syscalls.MOUNT_ATTR_RDONLY if mount.read_only else 0
    if not device_files and not volume.device:
        attributes |= syscalls.MOUNT_ATTR_NODEV
    # A volume in memory was made with the pod's ids, and layers are mapped before they are one.
    mapped = mapped and not volume.memory and not _is_image(volume)
    propagation = {"": syscalls.MS_PRIVATE, "in": syscalls.MS_SLAVE, "both": 0}[mount.propagation]
    return ops.Attach(
        *(f"volume:{mount.path}", mount.path, attributes, volume.recursive),
        mapped=mapped,
        propagation=propagation,
    )


def _system(pod: Pod, app: App) -> list[Op]:
    pods_proc = _has_pods_proc(pod, app)
    return [
        ops.Attach("proc", "proc", no_links=True) if pods_proc else ops.MakePlace("proc"),
        ops.Attach("sys", "sys", no_links=True),
        ops.MountDev(app.privileged, pod.ids, lsm.files_context(app.label)),
        ops.Attach("shm", "dev/shm", no_links=True),
        ops.Attach("mqueue", "dev/mqueue", no_links=True),
    ]


def _host_system() -> list[Op]:
    return [ops.Attach(name, name, no_links=True) for name in ("proc", "sys", "dev")]
