"""The plan of a pod in a virtual machine: the machine's, which is a pod on the host, and the pod's in the machine.

Made of the same manifests that are executed (`executor/kvm/machine.py`). What only a start finds out is in brackets.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from executor.kvm import machine, probe
from executor.kvm.boot import Boot
from executor.kvm.guest.main import SHARE
from executor.kvm.machine import FILES, KVM, VM
from executor.kvm.probe import Accelerator, ProbeError, Tools
from executor.stage1 import cgroups, describe, manifest, userns

ALL_FLAVORS: Final = (*manifest.FLAVORS, KVM)
_GUEST: Final = cgroups.Layout(2, {"": "/sys/fs/cgroup/gantry"})
"""Where the guest's launcher finds cgroups (executor/kvm/guest/main.py)."""
_UNKNOWN: Final = Accelerator("(kvm or tcg)", "(host or max)", 0, "")
Lowers = Mapping[str, tuple[str, ...]]


def plan(
    pod: dict[str, Any], directory: str, lowers: Lowers, state_dir: Path, layout: cgroups.Layout
) -> dict[str, Any]:
    """As describe.pod_plan, of the guest; `machine`: the machine's on the host. Raises StageError, MachineError."""
    machine.check(pod)
    guest = manifest.read(json.dumps(machine.guest_manifest(pod, {})))
    wanted = machine.size(pod, os.cpu_count() or 1)
    name = directory.rpartition("/")[2]
    on_host = manifest.read(json.dumps(machine.host_manifest(
        pod,
        {app: [_absolute(layer) for layer in layers] for app, layers in lowers.items()},
        _tools(),
        Boot(state_dir / "kvm" / "(boot)" / "kernel", state_dir / "kvm" / "(boot)" / "root.cpio"),
        _UNKNOWN,
        wanted,
        directory,
        f"{directory}/machine/{name}",
        users=machine.users_on_host(pod, guest.highest_id),
    )))  # fmt: skip
    system = dict.fromkeys((FILES, VM), (f"{state_dir}/kvm/system",))
    host_plan = describe.pod_plan(
        on_host, f"{directory}/machine/{name}", system, layout, why_no_users=userns.why_not()
    )
    inside = describe.pod_plan(
        guest, f"/pods/{name}", {app: (f"{SHARE}/images/{app}/.",) for app in lowers}, _GUEST
    )
    size = {"memoryBytes": wanted.memory, "cpus": wanted.cpus, "hostMemoryBytes": wanted.host_memory}
    return {**inside, "flavor": KVM, "directory": directory, "machine": {**size, **host_plan}}


def text(made: Mapping[str, Any]) -> str:
    """For people."""
    outer = made["machine"]
    return (
        f"the machine: {outer['memoryBytes'] // machine.MIB} MiB of memory, {outer['cpus']} cpus; with its programs at "
        f"most {outer['hostMemoryBytes'] // machine.MIB} MiB of the host's\n"
        f"{describe.text(outer)}in the machine:\n{describe.text(made)}"
    )


def _absolute(layer: str) -> str:
    """Of an image that is not here, a word stands for them."""
    return layer if layer.startswith("/") else f"/{layer}"


def _tools() -> Tools:
    try:
        return probe.tools()
    except ProbeError:
        return Tools(Path(f"/usr/bin/{probe.QEMU}"), Path(probe.VIRTIOFSD[0]))
