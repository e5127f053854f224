"""A pod's plan for people: what its init and its apps' starters would do, in order, without doing any of it.

Made of the same plans that are executed (`plan`), so it cannot say anything else than what happens. Pure, but for the
compilation of seccomp filters.
"""

from collections.abc import Mapping
from typing import Any, Final

from executor.stage1 import caps, cgroups, nspawn, plan, reading, seccomp, userns
from executor.stage1.manifest import App, Limits, Pod

_ACTIONS: Final = {
    0x7FFF0000: "allowed",
    0x7FFC0000: "logged",
    0x80000000: "death",
    0x00000000: "death of the thread",
}


def pod_plan(
    pod: Pod,
    directory: str,
    lowers: Mapping[str, tuple[str, ...]],
    layout: cgroups.Layout,
    *,
    why_no_users: str = "",
) -> dict[str, Any]:
    """Everything that would be done for the pod; `lowers`: the layers of each app, uppermost first.

    With a user namespace the first range of ids stands for the one that would be taken. Raises StageError.
    """
    users = pod.users == "private" or (pod.users != "host" and pod.may_have_users and not why_no_users)
    pod = pod._replace(ids=userns.FIRST if users else 0)
    paths = plan.Paths(directory)
    cgroup = cgroups.PodCgroup(
        *(layout, directory.rpartition("/")[2]),
        disk=_disk(pod, directory),
        without=reading.unlimited(pod),
        apart=reading.apart(pod),
    )
    for name, app in pod.apps.items():
        cgroup.place(name, app.limits, alone=len(pod.apps) == 1)
    made = plan.sandbox_plan(pod.flavor, host_network=pod.host_network, ids=pod.ids, host_ipc=pod.host_ipc)
    init = [op.describe() for op in made]
    if pod.flavor == "nspawn":
        name = nspawn.machine_name(directory.rpartition("/")[2])
        root = f"{directory}/stage1/rootfs"
        init.insert(
            0, "run " + " ".join(nspawn.command(root, name, pod.hostname, host_network=pod.host_network))
        )
        init.insert(1, "enter its namespaces")
    init += [op.describe() for op in plan.pod_plan(pod)]
    return {
        "flavor": pod.flavor,
        "userNamespace": _users(pod) if users else "none",
        "directory": directory,
        "cgroups": [*cgroup.directories, *_writes(cgroup, "", pod.limits)],
        "init": init,
        "apps": {
            name: {
                "cgroups": _writes(cgroup, name, app.limits),
                "operations": [
                    op.describe()
                    for op in plan.app_plan(pod, app, paths, lowers[name], cgroup.app_members(name))
                ],
                "process": _process(pod, app),
            }
            for name, app in pod.apps.items()
        },
    }


def _users(pod: Pod) -> str:
    unless = "" if pod.users else "; none, if a volume lies on a file system that cannot be id-mapped"
    return f"{userns.SIZE} ids, from {userns.FIRST} or a later range on{unless}"


def text(made: Mapping[str, Any]) -> str:
    """The plan as lines."""
    lines = [
        f"pod directory {made['directory']}",
        f"flavor {made['flavor']}, user namespace: {made['userNamespace']}",
        "cgroups:",
        *_numbered(made["cgroups"]),
        "init:",
        *_numbered(made["init"]),
    ]
    for name, app in made["apps"].items():
        lines += [f"app {name}:", *_numbered([*app["cgroups"], *app["operations"]])]
        lines += [f"  {key}: {value}" for key, value in app["process"].items()]
    return "\n".join(lines) + "\n"


def _numbered(entries: list[str]) -> list[str]:
    return [f"  {number:2} {entry}" for number, entry in enumerate(entries, start=1)]


def _disk(pod: Pod, directory: str) -> str:
    limits = [pod.limits, *(app.limits for app in pod.apps.values())]
    wanted = any(one.block_bandwidth is not None or one.block_iops is not None for one in limits)
    return f"(the disk below {directory})" if wanted else ""


def _writes(cgroup: cgroups.PodCgroup, app: str, limits: Limits) -> list[str]:
    made = []
    for controller, file, value in cgroup.writes(limits):
        root = cgroup.layout.base.get(controller if cgroup.layout.version == 1 else "")
        made.append(f"write {value} to {cgroup.directory(root or f'(no {controller})', app)}/{file}")
    for controller, file, value in cgroups.further_writes(cgroup.layout.version, limits, of_app=bool(app)):
        root = cgroup.layout.base.get(controller if cgroup.layout.version == 1 else "")
        if root is not None:
            made.append(f"write {value} to {cgroup.directory(root, app)}/{file}, if it is there")
    return made


def _process(pod: Pod, app: App) -> dict[str, str]:
    process = plan.app_process(pod, app)
    names = [name for name in caps.NAMES if process.capabilities is not None]
    kept = [name for name in names if (process.capabilities or 0) >> caps.NUMBERS[name] & 1]
    described = {
        "process": process.describe().replace("\n", "\\n"),
        "environment": " ".join(f"{name}={value}" for name, value in process.environment),
        "capabilities": "all" if process.capabilities is None else " ".join(kept) or "none",
        "no_new_privs": "yes" if process.no_new_privileges else "no",
        "seccomp": _seccomp(pod, app) if process.seccomp else "no filter",
    }
    if process.own_proc:
        described["processes"] = (
            f"its own, of which it is pid 1, in a /proc of that{_masks(process.own_proc)}"
        )
    if process.supplementary_gids:
        described["groups"] = " ".join(map(str, process.supplementary_gids))
    if app.rlimits:
        described["rlimits"] = " ".join(f"{number}={soft}:{hard}" for number, soft, hard in app.rlimits)
    return described


def _masks(own_proc: str) -> str:
    if own_proc != "masked":
        return ""
    hidden, fixed = (
        " ".join(path.removeprefix("proc/") for path in paths if path.startswith("proc/"))
        for paths in (plan.HIDDEN, plan.READ_ONLY)
    )
    return f" (hidden: {hidden}; read-only: {fixed}; where they are)"


def _seccomp(pod: Pod, app: App) -> str:
    wanted = plan.seccomp_filter(pod, app)
    if wanted is None:
        return "no filter"
    counts: dict[str, int] = {}
    for rule in wanted.rules:
        counts[_action(rule.action)] = counts.get(_action(rule.action), 0) + len(rule.names)
    listed = ", ".join(f"{count} calls: {action}" for action, count in counts.items())
    size = len(seccomp.compile_filter(wanted)) // 8
    return f"{listed or 'no rules'}; any other: {_action(wanted.default)} ({size} instructions)"


def _action(action: int) -> str:
    if action & 0xFFFF0000 == seccomp.refusal(0):
        return f"errno {action & 0xFFFF}"
    return _ACTIONS.get(action, "SIGSYS")
