"""The command lines of QEMU and virtiofsd, and what QEMU is told later."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from executor.kvm import acpi
from executor.kvm.boot import Boot
from executor.kvm.guest import waking
from executor.kvm.guest.main import SHARE, TAG
from executor.kvm.probe import SETPRIV, Accelerator, Tools
from executor.network.taps import Link

if TYPE_CHECKING:
    from executor.kvm.machine import Size

TOLD: Final = "machine.told"
"""The volume, in memory and QEMU's own, in which it finds what is known only when its namespaces are there."""
DEVICES: Final = "devices"
"""The file in it that says what devices there are beside those of every machine."""
SHARE_DEVICE: Final = {
    "driver": "vhost-user-fs-pci", "chardev": "files", "tag": TAG, "bus": "slot1", "event_idx": False,
}  # fmt: skip
WIRE_DEVICE: Final = {"driver": "virtserialport", "chardev": "wire", "bus": "serial.0", "nr": 1}
"""What a machine that goes on from a template gets when it runs: the shared tree, and the wire."""

_SHARED_MEMORY: Final = "memory-backend-memfd,id=memory,size={},share=on"
_WITH_PCI: Final = "microvm,rtc=on,pcie=on"
_PORT: Final = (
    "-device",
    "pcie-root-port,id=slot1,bus=pcie.0,chassis=1,slot=1,addr=1,power_controller_present=off",
)
_QMP: Final = ("-chardev", "socket,id=qmp,fd=0", "-mon", "chardev=qmp,mode=control")
_TB_CACHE_MIB: Final = 64
# QEMU's libvhost-user, and its own devices, say up to where they have looked into a ring (virtio 1.1, 2.6.7.2), and
# look once more, without a barrier in between: the guest may believe that they have still to look, not wake them, and
# wait for ever. Without this feature it always wakes them.
_WAKES: Final = "event_idx=off"


def booting(tools: Tools, boot: Boot, how: Accelerator, wanted: "Size") -> list[str]:
    """QEMU's for a machine that boots. Descriptors: 0 is the wire, 1 virtiofsd's socket, 2 the console."""
    return [
        *_qemu(tools, how, wanted, "microvm,rtc=on", _SHARED_MEMORY), *_kernel(boot, boot.root, how),
        "-chardev", "socket,id=files,fd=1", "-device", f"vhost-user-fs-device,chardev=files,tag={TAG},{_WAKES}",
        "-readconfig", f"/{TOLD}/{DEVICES}",
        "-chardev", "socket,id=wire,fd=0", "-device", f"virtio-serial-device,max_ports=2,{_WAKES}",
        "-device", "virtserialport,chardev=wire,nr=1",
    ]  # fmt: skip


def template(tools: Tools, boot: Boot, how: Accelerator, wanted: "Size") -> list[str]:
    """The same for a machine that others go on from. Descriptors: 0 is for QMP, 2 the console.

    It must have what they have, but for virtio devices and most of its memory (see `executor.kvm.acpi`). This is not
    shared: QEMU reads all of it, and shared memory is there when it has been read.
    """
    more = f" {waking.VARIABLE}=1 pcie_ports=compat"  # the guest looks for devices when it wants, and waits for nothing
    if wanted.cpus > 2:
        more += f" maxcpus={wanted.cpus // 2 + 1}"  # it is for so many, and for all numbers up to all of them
    return [
        *_qemu(tools, how, wanted, _WITH_PCI, "memory-backend-ram,id=memory,size={}"),
        *_kernel(boot, boot.template, how, more), *_PORT, *_QMP,
    ]  # fmt: skip


def going_on(tools: Tools, how: Accelerator, wanted: "Size") -> list[str]:
    """The same for a machine that goes on from a template. Descriptors: 0 is for QMP, 1 the stream, 2 the console.

    By QMP it gets the shared tree (`SHARE_DEVICE`): QEMU 7.2 goes on with no machine that has it from the start; and,
    for want of descriptors, the wire (`WIRE_DEVICE`).
    """
    places = replace(wanted, cpus=wanted.template.cpus)
    return [
        *_qemu(tools, how, places, _WITH_PCI, _SHARED_MEMORY), "-incoming", "fd:1", *_PORT, *_QMP,
        "-readconfig", f"/{TOLD}/{DEVICES}",
        "-device", f"virtio-serial-device,id=serial,max_ports=2,{_WAKES},bus={acpi.bus(acpi.PLACES[0])}",
    ]  # fmt: skip


def _qemu(tools: Tools, how: Accelerator, wanted: "Size", kind: str, memory: str) -> list[str]:
    size = f"{wanted.memory >> 20}M"
    accel = "kvm" if how.name == "kvm" else f"tcg,thread=multi,tb-size={_TB_CACHE_MIB}"
    return [
        str(tools.qemu), "-name", "gantry", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", f"{kind},memory-backend=memory", "-global", "virtio-mmio.force-legacy=false",
        "-accel", accel, "-cpu", how.cpu, "-smp", str(wanted.cpus), "-m", size, "-object", memory.format(size),
        "-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console",
    ]  # fmt: skip


def _kernel(boot: Boot, root: Path, how: Accelerator, more: str = "") -> list[str]:
    # A kernel that has stumbled ends, for what it held when it did is held for ever; and a timer that is late, on a
    # host which is busy, is not taken for one that is not there (Documentation/admin-guide/kernel-parameters.txt).
    ends = "panic=-1 oops=panic reboot=t no_timer_check"
    said = f"console=ttyS0 quiet loglevel=3 {ends} LD_LIBRARY_PATH=/lib{how.parameters}{more}"
    return ["-kernel", f"/boot/{boot.kernel.name}", "-initrd", f"/boot/{root.name}", "-append", said]


def virtiofsd(tools: Tools) -> list[str]:
    """Descriptor 0 is the socket it listens on.

    What it creates it creates as the user that asked, of whose groups it knows but one: so a directory which another
    one opens (fsGroup) would be shut. The guest has looked already; its capabilities stay with it (capabilities(7)).
    """
    return [
        SETPRIV, "--securebits", "+no_setuid_fixup", "--",
        str(tools.virtiofsd), "--fd=0", "-o", f"source={SHARE}", "-o", "sandbox=chroot", "-o", "cache=auto",
        "-o", "announce_submounts", "-o", "xattr", "-o", "no_posix_lock", "-o", "modcaps=-mknod",
        "--rlimit-nofile=0", "-o", "log_level=warn",
    ]  # fmt: skip


CARDS: Final = len(acpi.PLACES) - 2
"""Network cards that there are places for, beside the wire and the shared tree."""


def network_devices(links: Sequence[Link]) -> str:
    """What QEMU reads: a network card for each interface (qemu(1), -readconfig)."""
    return "".join(
        f"""[netdev "net{number}"]
  type = "tap"
  ifname = "{link.tap}"
  script = "no"
  downscript = "no"

[device "card{number}"]
  driver = "virtio-net-device"
  netdev = "net{number}"
  mac = "{link.mac}"
  bus = "{acpi.bus(acpi.PLACES[1 + number])}"

"""
        for number, link in enumerate(links)
    )
