"""A strict reader of tar streams: ustar, pax and GNU long names, each header checked, nothing guessed.

Why not `tarfile`: it ends silently at a damaged header, keeps every member in memory, reads headers of any size and
answers unknown types with "regular file". Here a stream that is not exactly a tar is an error that names the entry.
Not supported and refused: sparse files, multi-volume and unknown types. Sources: POSIX.1-2024 pax, GNU tar manual
("Basic Tar Format"), Go's archive/tar for what real image tools write.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from executor.stage0.errors import ImageBroken
from executor.stage0.streams import CHUNK, Limits, Reader, Slice

BLOCK = 512
NS = 1_000_000_000
_ZERO = bytes(BLOCK)
_MAX_META = 8  # pax and GNU headers in front of one entry


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hard link"
    FIFO = "fifo"
    DEVICE = "device node"


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE, b"4": Kind.DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip


@dataclass(slots=True)
class Entry:
    """One entry. name and link are as stored (surrogateescape), offset is the content's place in the tar stream."""

    name: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    offset: int = 0


class TarReader:
    """Entries one after another; `read` gives the current one's content, `next` skips what was not read.

    strict_end: a missing end-of-archive block is an error. Turn it off only where a digest covers the whole stream
    (layers): then nothing can be cut off, and some builders forget the trailer.
    """

    def __init__(self, source: Reader, limits: Limits, *, strict_end: bool = True) -> None:
        self._source, self._limits, self._strict_end = source, limits, strict_end
        self._buffer, self._at = b"", 0
        self._left = self._padding = 0
        self.offset = 0
        self.entries = 0
        self._globals: dict[str, bytes] = {}

    def next(self) -> Entry | None:
        """The next entry, None at the end of the archive."""
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        pax: dict[str, bytes] = {}
        name = link = ""
        for _ in range(_MAX_META + 1):
            header = self._header()
            if header is None:
                if pax or name or link:
                    raise ImageBroken("tar: truncated: ends behind an extended header")
                return None
            kind = header[156:157]
            if kind in b"xXg":
                records = _pax_records(self._meta(header))
                if kind == b"g":
                    self._set_globals(records)
                else:
                    pax = records
            elif kind == b"L":
                name = _text(self._meta(header).rstrip(b"\0"))
            elif kind == b"K":
                link = _text(self._meta(header).rstrip(b"\0"))
            else:
                return self._entry(header, {**self._globals, **pax}, name, link)
        raise ImageBroken(f"tar: more than {_MAX_META} extended headers in a row")

    def read(self, n: int, /) -> bytes:
        """At most n bytes of the current entry, b"" at its end; ImageBroken when the stream ends before."""
        if not self._left:
            return b""
        data = self._some(min(n, self._left))
        if not data:
            raise ImageBroken("tar: truncated in the middle of a file")
        self._left -= len(data)
        return data

    def _entry(self, header: bytes, pax: dict[str, bytes], name: str, link: str) -> Entry:
        if any(key.startswith("GNU.sparse.") for key in pax):
            raise ImageBroken("tar: sparse files are not supported")
        if not name:
            name = _text(pax["path"]) if "path" in pax else _ustar_name(header)
        if not link:
            link = _text(pax["linkpath"]) if "linkpath" in pax else _text(_cut(header[157:257]))
        shown = name[:200]
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise ImageBroken(f"tar: entry {shown!r}: type {flag!r} is not supported")
        if kind is Kind.FILE and name.endswith("/"):
            kind = Kind.DIRECTORY  # as tar before POSIX wrote them
        size = _decimal(pax["size"], "size") if "size" in pax else _number(header[124:136], "size")
        if kind is not Kind.FILE:
            size = 0  # these have no content whatever the field says, as in Go's archive/tar
        self._left, self._padding = size, -size % BLOCK
        if size > self._limits.unpacked_bytes:
            raise ImageBroken(
                f"tar: entry {shown!r}: larger than the limit of {self._limits.unpacked_bytes} bytes"
            )
        self.entries += 1
        if self.entries > self._limits.entries:
            raise ImageBroken(f"tar: more than {self._limits.entries} entries")
        return Entry(
            name=name,
            kind=kind,
            mode=_number(header[100:108], "mode") & 0o7777,
            uid=_decimal(pax["uid"], "uid") if "uid" in pax else _number(header[108:116], "uid"),
            gid=_decimal(pax["gid"], "gid") if "gid" in pax else _number(header[116:124], "gid"),
            size=size,
            mtime_ns=_clamped(_time(pax["mtime"]) if "mtime" in pax else _seconds(header[136:148]) * NS),
            link=link if kind in {Kind.SYMLINK, Kind.HARDLINK} else "",
            xattrs={k[13:]: v for k, v in pax.items() if k.startswith("SCHILY.xattr.")},
            offset=self.offset,
        )

    def _header(self) -> bytes | None:
        """One checked header block, None at the end (two zero blocks, or one and the end)."""
        block = self._exactly(BLOCK, "a header", end_ok=True)
        if not block:
            if self._strict_end:
                raise ImageBroken("tar: truncated: no end-of-archive block")
            return None
        if block == _ZERO:
            second = self._exactly(BLOCK, "the end", end_ok=True)
            if second and second != _ZERO:
                raise ImageBroken("tar: data behind a zero block")
            return None
        stored = _number(block[148:156], "checksum")
        head, tail = block[:148], block[156:]
        if sum(head) + sum(tail) + 256 != stored:
            raise ImageBroken("tar: a header's checksum is wrong: damaged, or not a tar")
        return block

    def _meta(self, header: bytes) -> bytes:
        size = _number(header[124:136], "size")
        if size > self._limits.header_bytes:
            raise ImageBroken(f"tar: an extended header of {size} bytes (limit {self._limits.header_bytes})")
        data = self._exactly(size + -size % BLOCK, "an extended header")
        return data[:size]

    def _set_globals(self, records: dict[str, bytes]) -> None:
        for key in records:
            if key in {"path", "linkpath", "size"} or key.startswith(("GNU.sparse.", "SCHILY.xattr.")):
                raise ImageBroken(f"tar: a global header sets {key}")
        self._globals |= records

    def _some(self, n: int) -> bytes:
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._source.read(CHUNK), 0
        data = self._buffer[self._at : self._at + n]
        self._at += len(data)
        self.offset += len(data)
        return data

    def _exactly(self, n: int, what: str, *, end_ok: bool = False) -> bytes:
        data = self._some(n)
        while len(data) < n:
            more = self._some(n - len(data))
            if not more:
                if end_ok and not data:
                    return b""
                raise ImageBroken(f"tar: truncated in {what}")
            data += more
        return data

    def _skip(self, n: int) -> None:
        if n > CHUNK and isinstance(self._source, Slice):
            buffered = min(len(self._buffer) - self._at, n)
            self._at += buffered
            jumped = self._source.skip(n - buffered)
            self.offset += buffered + jumped
            n -= buffered + jumped
        while n:
            data = self._some(min(n, CHUNK))
            if not data:
                raise ImageBroken("tar: truncated in the middle of a file")
            n -= len(data)


def _cut(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _text(raw: bytes) -> str:
    if b"\0" in raw:
        raise ImageBroken("tar: a name with a NUL byte")
    return raw.decode("utf-8", "surrogateescape")


def _ustar_name(header: bytes) -> str:
    name = _cut(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = _cut(header[345:500]) + b"/" + name
    return _text(name)


def _number(raw: bytes, what: str) -> int:
    """Octal text, or base-256 (GNU) when the top bit is set; never negative."""
    if raw[0] & 0x80:
        if raw[0] != 0x80:
            raise ImageBroken(f"tar: {what} is negative or too large")
        return int.from_bytes(raw[1:], "big")
    return _octal(raw, what)


def _octal(raw: bytes, what: str) -> int:
    digits = raw.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ImageBroken(f"tar: {what} is not a number: damaged, or not a tar")
    return int(digits, 8) if digits else 0


def _seconds(raw: bytes) -> int:
    """mtime may be before 1970 in base-256."""
    if raw[0] & 0x80:
        value = int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
        return value - (1 << (8 * len(raw) - 1)) if raw[0] & 0x40 else value
    return _octal(raw, "mtime")


def _clamped(ns: int) -> int:
    """Between 1901 and 2242, which file systems can keep: a strange time is no reason to refuse an image."""
    return min(max(ns, -(2**31) * NS), 2**33 * NS)


def _decimal(raw: bytes, what: str) -> int:
    if not raw.isdigit() or len(raw) > 20:
        raise ImageBroken(f"tar: pax {what} {raw[:40]!r} is not a number")
    return int(raw)


def _time(raw: bytes) -> int:
    """A pax time, decimal seconds with a fraction, in ns."""
    sign = -1 if raw.startswith(b"-") else 1
    whole, _, fraction = raw.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
        raise ImageBroken(f"tar: pax mtime {raw[:40]!r} is not a time")
    return sign * (int(whole) * NS + int(fraction[:9].ljust(9, b"0") or b"0"))


def _pax_records(data: bytes) -> dict[str, bytes]:
    """`<length> <key>=<value>\\n` records; the length counts itself."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 21)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise ImageBroken("tar: damaged pax header: a record without its length")
        end = at + int(digits)
        if end > len(data) or end <= space or data[end - 1 : end] != b"\n":
            raise ImageBroken("tar: damaged pax header: a record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals:
            raise ImageBroken("tar: damaged pax header: a record without '='")
        records[_text(key)] = value
        at = end
    return records
