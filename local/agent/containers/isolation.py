"""Names of --isolation and the cgroup v1 subsystems they stand for.

Source: Mesos docs/configuration/agent.md (--isolation), src/slave/containerizer/mesos/isolators/cgroups/cgroups.cpp.
"""

# By isolator; every container is in the freezer, without which it could not be killed as a whole.
SUBSYSTEMS: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu", "cpuacct"),
    "mem": ("memory",),
    "pids": ("pids",),
    "devices": ("devices",),
    "blkio": ("blkio",),
    "cpuset": ("cpuset",),
    "net_cls": ("net_cls",),
    "net_prio": ("net_prio",),
    "perf_event": ("perf_event",),
    "hugetlb": ("hugetlb",),
}
_ALL = ("cpu", "mem", "pids", "devices", "blkio", "cpuset")
_NONE = frozenset(("posix/cpu", "posix/mem", "posix/disk", "filesystem/posix", "network/port_mapping/none"))


def subsystems(text: str) -> tuple[str, ...]:
    """The subsystems of a list such as "cgroups/cpu,cgroups/mem". ValueError for an isolator there is not."""
    names: list[str] = ["freezer"]
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item in _NONE:
            continue  # isolates nothing, in Mesos as well
        kind, _, name = item.partition("/")
        chosen = _ALL if (kind, name) == ("cgroups", "all") else (name,)
        if kind != "cgroups" or any(one not in SUBSYSTEMS for one in chosen):
            raise ValueError(
                f"{item}: no such isolator here (cgroups/all, or cgroups/ and one of {_known()})"
            )
        for one in chosen:
            names.extend(s for s in SUBSYSTEMS[one] if s not in names)
    return tuple(names)


def _known() -> str:
    return ", ".join(sorted(SUBSYSTEMS))
