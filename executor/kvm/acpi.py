"""An ACPI table that names the places of virtio devices a machine may have, whether or not they are taken.

QEMU's own tables name the devices that a machine was started with. One that goes on from a template
(executor/kvm/template.py) has read its tables before it had any. Linux takes further tables from the head of its first
root (Documentation/admin-guide/acpi/initrd_table_override.rst); a place that is not taken is no device to its driver.
"""

import struct
from typing import Final

PATH: Final = "kernel/firmware/acpi/virtio.aml"
PLACES: Final = range(1, 24)
"""All of a microvm but 0: QEMU takes the first line of any I/O APIC for the timer of a PC. Places have no holes."""
# QEMU's include/hw/i386/microvm.h; with a second I/O APIC, as is usual, the lines are those from 24 on.
_BASE: Final = 0xFEB00000
_SIZE: Final = 512
_LINE: Final = 24


def bus(place: int) -> str:
    """QEMU's name of a place."""
    return f"virtio-mmio-bus.{place}"


def table() -> bytes:
    """An SSDT (ACPI 6.4, 5.2.11.2; byte code as in chapter 20)."""
    body = _package(b"\x10", b"\\_SB_" + b"".join(map(_device, PLACES)))
    fields = (b"SSDT", 36 + len(body), 2, 0, b"GANTRY", b"VIRTIO  ", 1, b"GNTR", 1)
    whole = bytearray(struct.pack("<4sIBB6s8sI4sI", *fields) + body)
    checksum_at = 9
    whole[checksum_at] = -sum(whole) & 0xFF
    return bytes(whole)


def _device(place: int) -> bytes:
    resources = (
        struct.pack("<BHBII", 0x86, 9, 1, _BASE + place * _SIZE, _SIZE)  # Memory32Fixed, read and write
        + struct.pack(
            "<BHBBI", 0x89, 6, 1, 1, _LINE + place
        )  # Interrupt: consumer, level, active high, exclusive
        + b"\x79\0"  # the end
    )
    names = {b"_HID": b"\x0dLNRO0005\0", b"_UID": bytes((0x0A, place)), b"_CCA": b"\x01"}
    names[b"_CRS"] = _package(b"\x11", bytes((0x0A, len(resources))) + resources)
    content = b"".join(b"\x08" + name + value for name, value in names.items())
    return _package(b"\x5b\x82", b"GV%02d" % place + content)


def _package(opcode: bytes, content: bytes) -> bytes:
    """An object that says its length: in one byte, or in two, of which the first has the lowest four bits."""
    if len(content) + 1 < 0x40:
        return opcode + bytes((len(content) + 1,)) + content
    length = len(content) + 2
    return opcode + bytes((0x40 | length & 15, length >> 4)) + content
