"""Why a program could not be executed, when the kernel only says that something is not there.

As rkt (`stage1/diagnostic/diagnostic.go`): it is the program, or the loader or interpreter that the program
names. Looked for in the image's layers and in what is mounted over them from the host.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from executor.rkt.inside import Inside

NOT_THERE: Final = re.compile(r"exec (/.*): No such file or directory$")
"""stage1's word on it, with the program."""
_HEAD: Final = 64 << 10
_PT_INTERP: Final = 3


def missing(pod: Path, entry: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]], program: str) -> str:
    """Of an app's program that is not there, or cannot be run: the path that is missing, as far as can be told."""
    layers = (pod / "appsinfo" / str(entry["name"]) / "lower").read_text().splitlines()
    sources = {str(volume["name"]): str(volume.get("source") or "") for volume in volumes}
    mounts = [
        (f"/{str(one['path']).strip('/')}", sources.get(str(one["volume"])))
        for one in entry.get("mounts") or ()
    ]
    inside = Inside(layers, [(path, source) for path, source in mounts if source])
    wanted = _interpreter(_head(inside.follow(program)[1]))
    return wanted if wanted and inside.follow(wanted)[1] is None else program


def _head(place: Path | None) -> bytes:
    if place is None or not place.is_file():
        return b""
    with place.open("rb") as file:
        return file.read(_HEAD)


def _interpreter(head: bytes) -> str:
    """Which program the kernel runs for this one: of a script, or an ELF file of this machine's byte order."""
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return words[0].decode(errors="replace") if words else ""
    if not head.startswith(b"\x7fELF\x02\x01") or len(head) < 64:
        return ""
    start, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    for number in range(count):
        at = start + number * size
        if at + 56 > len(head):
            break
        kind, offset, length = (
            *struct.unpack_from("<I", head, at),
            *struct.unpack_from("<Q16xQ", head, at + 8),
        )
        if kind == _PT_INTERP:
            return head[offset : offset + length].rstrip(b"\0").decode(errors="replace")
    return ""
