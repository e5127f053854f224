"""An ACPI table with what a machine may have one day, whether or not it has it when it boots: devices, and memory.

QEMU's own tables name the devices that a machine was started with, and its memory. One that goes on from a template
(executor/kvm/template.py) has read its tables before it had any. Linux takes further tables from the head of its first
root (Documentation/admin-guide/acpi/initrd_table_override.rst); a place that is not taken is no device to its driver.

How much memory there is QEMU says in its configuration device, at any time (docs/specs/fw_cfg.rst of QEMU). What is
more than a template has is two memory devices (ACPI 6.4, 9.11), below and above the hole for devices of a PC. Nothing
tells the guest of them: a third device, which is nothing else, makes it look whenever it is asked for its state
(executor/kvm/guest/growth.py).
"""

import struct
from typing import Final

PATH: Final = "kernel/firmware/acpi/machine.aml"
PLACES: Final = range(1, 24)
"""All of a microvm but 0: QEMU takes the first line of any I/O APIC for the timer of a PC. Places have no holes."""
BASE_MEMORY: Final = 256 << 20
"""Bytes that a template has."""
# QEMU's include/hw/i386/microvm.h; with a second I/O APIC, as is usual, the lines are those from 24 on.
_BASE: Final = 0xFEB00000
_SIZE: Final = 512
_LINE: Final = 24
# QEMU's hw/i386/microvm.c, and its include/standard-headers/linux/qemu_fw_cfg.h:
_LOW: Final = 3 << 30
_HIGH: Final = 4 << 30
_PORT: Final = 0x510
_RAM_SIZE: Final = 0x0003
# Op codes (20.2.5), and descriptors (6.4.3):
_DEVICE, _METHOD, _SCOPE, _BUFFER, _IF, _WHILE = b"\x5b\x82", b"\x14", b"\x10", b"\x11", b"\xa0", b"\xa2"
_NAME, _RETURN, _STORE, _ADD, _SUBTRACT, _OR, _SHIFT = (
    b"\x08",
    b"\xa4",
    b"\x70",
    b"\x72",
    b"\x74",
    b"\x7d",
    b"\x79",
)
_GREATER, _LESS, _NOTIFY, _QWORD_FIELD = b"\x94", b"\x95", b"\x86", b"\x8f"
_REGION, _FIELD = b"\x5b\x80", b"\x5b\x81"
_X, _I = b"\x60", b"\x61"  # two local variables
_NOWHERE: Final = b"\0"
_DEVICE_CHECK: Final = b"\x01"
_THERE: Final = b"\x0a\x0f"  # present, enabled, shown, works
_END: Final = b"\x79\0"


def bus(place: int) -> str:
    """QEMU's name of a place."""
    return f"virtio-mmio-bus.{place}"


def table() -> bytes:
    """An SSDT (ACPI 6.4, 5.2.11.2; byte code as in chapter 20)."""
    memory = (_size(), _memory(b"GML0", 0, BASE_MEMORY, _LOW), _memory(b"GMH0", 1, _LOW, 0), _looked_at())
    body = _package(_SCOPE, b"\\_SB_" + b"".join((*map(_device, PLACES), *memory)))
    fields = (b"SSDT", 36 + len(body), 2, 0, b"GANTRY", b"MACHINE ", 1, b"GNTR", 1)
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
        + _END
    )
    names = {b"_HID": b"\x0dLNRO0005\0", b"_UID": bytes((0x0A, place)), b"_CCA": b"\x01"}
    names[b"_CRS"] = _buffer(resources)
    content = b"".join(_NAME + name + value for name, value in names.items())
    return _package(_DEVICE, b"GV%02d" % place + content)


def _size() -> bytes:
    """GSIZ(): bytes of memory that QEMU says there are. A word to the port selects, bytes from the next one follow."""
    io, by_words, by_bytes = b"\x01", b"\x02", b"\x01"
    region = _REGION + b"GCFG" + io + b"\x0b" + struct.pack("<H", _PORT) + b"\x0a\x02"
    select = _package(_FIELD, b"GCFG" + by_words + b"GSEL\x10")
    data = _package(_FIELD, b"GCFG" + by_bytes + b"\0\x08" + b"GDAT\x08")
    one = _OR + _X + _SHIFT + b"GDAT" + _I + _NOWHERE + _X + _ADD + _I + b"\x0a\x08" + _I
    loop = _package(_WHILE, _LESS + _I + b"\x0a\x40" + one)
    code = _STORE + bytes((0x0A, _RAM_SIZE)) + b"GSEL" + _STORE + b"\0" + _X + _STORE + b"\0" + _I + loop
    return region + select + data + _method(b"GSIZ", code + _RETURN + _X)


def _memory(name: bytes, number: int, first: int, end: int) -> bytes:
    """A device of all memory that there is from `first` up to `end`, or to its own end (0): bytes, not addresses."""
    moved = _HIGH - _LOW if first >= _LOW else 0
    state = _package(_IF, _GREATER + b"GSIZ" + _number(first) + _RETURN + _THERE) + _RETURN + b"\0"
    memory, fixed, cached_and_written = 0, 0x0C, 0x03
    words = (0, first + moved, 0, 0, 0)  # granularity, first, last, offset, length
    range_ = struct.pack("<BHBBB5Q", 0x8A, 0x2B, memory, fixed, cached_and_written, *words) + _END
    code = _NAME + b"GBUF" + _buffer(range_)
    code += _QWORD_FIELD + b"GBUF\x0a\x16GMAX" + _QWORD_FIELD + b"GBUF\x0a\x26GLEN"
    code += _STORE + b"GSIZ" + _X
    if end:
        code += _package(_IF, _GREATER + _X + _number(end) + _STORE + _number(end) + _X)
    code += _SUBTRACT + _X + _number(first) + b"GLEN" + _ADD + _X + _number(moved - 1) + b"GMAX"
    code += _RETURN + b"GBUF"
    named = _NAME + b"_HID" + b"\x0c\x41\xd0\x0c\x80" + _NAME + b"_UID" + bytes((0x0A, number))  # PNP0C80
    return _package(_DEVICE, name + named + _method(b"_STA", state) + _method(b"_CRS", code))


def _looked_at() -> bytes:
    """The device that makes the kernel look at the others, if there is more memory than a template has."""
    look = b"".join(_NOTIFY + name + _DEVICE_CHECK for name in (b"GML0", b"GMH0"))
    code = _package(_IF, _GREATER + b"GSIZ" + _number(BASE_MEMORY) + look) + _RETURN + _THERE
    return _package(_DEVICE, b"GLK0" + _NAME + b"_HID" + b"\x0dGNTR0001\0" + _method(b"_STA", code))


def _method(name: bytes, code: bytes) -> bytes:
    no_arguments_one_at_a_time = b"\x08"
    return _package(_METHOD, name + no_arguments_one_at_a_time + code)


def _buffer(content: bytes) -> bytes:
    return _package(_BUFFER, bytes((0x0A, len(content))) + content)


def _number(value: int) -> bytes:
    return b"\x0e" + struct.pack("<q", value)


def _package(opcode: bytes, content: bytes) -> bytes:
    """An object that says its length: in one byte, or in two, of which the first has the lowest four bits."""
    if len(content) + 1 < 0x40:
        return opcode + bytes((len(content) + 1,)) + content
    length = len(content) + 2
    return opcode + bytes((0x40 | length & 15, length >> 4)) + content
