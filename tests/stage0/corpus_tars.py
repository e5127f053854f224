"""The malicious corpus, tars: names, links, whiteouts, devices, numbers, extensions, bombs, and tars that end early."""

import bz2
import gzip
import lzma
import os
import random
import struct
from collections.abc import Iterator
from typing import NamedTuple

import zstandard

BLOCK = 512
END = bytes(2 * BLOCK)
KINDS = {"file": b"0", "dir": b"5", "symlink": b"2", "hardlink": b"1", "fifo": b"6"}


class Case(NamedTuple):
    name: str
    kind: str
    data: bytes
    may_pass: bool = False


def header(
    name: bytes, kind: bytes = b"0", content: bytes = b"", link: bytes = b"", **fields: bytes
) -> bytes:
    """One entry; any field of its header (by tar's name) may be given as raw bytes."""
    default = {
        "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "size": b"%011o\0" % len(content),
        "mtime": b"00000000000\0", "chksum": b"", "magic": b"ustar\x0000", "major": bytes(8), "minor": bytes(8),
    } | fields  # fmt: skip
    block = bytearray(BLOCK)
    places = {
        "mode": 100,
        "uid": 108,
        "gid": 116,
        "size": 124,
        "mtime": 136,
        "magic": 257,
        "major": 329,
        "minor": 337,
    }
    block[: len(name[:100])] = name[:100]
    for key, at in places.items():
        block[at : at + len(default[key])] = default[key]
    block[156:157] = kind
    block[157 : 157 + len(link[:100])] = link[:100]
    block[148:156] = b" " * 8
    block[148:156] = default["chksum"] or b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % BLOCK)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", kind, records)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def named(name: bytes, kind: str = "file", link: bytes = b"first") -> bytes:
    """An entry with a name of any length, behind a file called `first`."""
    first = header(b"first", content=b"x")
    extended = pax(record(b"path", name)) if len(name) > 100 else b""
    linked = link if kind in {"symlink", "hardlink"} else b""
    return first + extended + header(name, KINDS[kind], b"evil" if kind == "file" else b"", linked)


def aci(manifest: bytes, rest: bytes = b"", before: bytes = b"") -> bytes:
    """An ACI; rest: what comes behind its rootfs, END included."""
    return (
        before
        + header(b"manifest", content=manifest)
        + header(b"rootfs/", b"5")
        + rest
        + (b"" if rest else END)
    )


def names(victim: bytes) -> Iterator[Case]:
    evil = [
        b"../x", b"../../x", b"a/../../x", b"./../x", b"..", b"a/..", b"a/b/../../../x", victim, b"/" + victim,
        b"/etc/cron.d/x", b"//x", b"", b"../" * 40 + victim[1:], b"a/" * 300 + b"x", b"a/" * 2100 + b"x",
        b"x" * 5000, b"x" * 300, b"first/x", b"first/../x",
    ]  # fmt: skip
    for number, name in enumerate(evil):
        for kind in KINDS:
            yield Case(f"name-{number}-{kind}", "layer", named(name, kind) + END)
    odd = [b"\\..\\x", b"....//x", b"a\nb", b"\x1b[2J", b"\xff\xfe", b"C:\\x", b"con", b".", b"./", b"a//b", b"a/./b",
           "e\u0301".encode(), "\u202etxt.exe".encode(), b" ", b"~", b"*", b"$(id)"]  # fmt: skip
    for number, name in enumerate(odd):
        yield Case(
            f"odd-name-{number}",
            "layer",
            named(name, "dir" if name.startswith(b"./") else "file") + END,
            True,
        )
    yield Case("root-is-a-file", "layer", header(b"./", b"0", b"x") + END)
    yield Case("root-is-a-link", "layer", header(b".", b"2", link=victim) + END)


def links(victim: bytes) -> Iterator[Case]:
    def link(name: bytes, to: bytes) -> bytes:
        return header(name, b"2", link=to)

    def hard(name: bytes, to: bytes) -> bytes:
        return header(name, b"1", link=to)

    def file(name: bytes) -> bytes:
        return header(name, content=b"evil")

    up = os.path.dirname(victim)
    for number, target in enumerate(
        [b"..", b"../..", b"a/../..", b"../" * 30, b"./.././..", b"a/b/../../../c"]
    ):
        yield Case(f"symlink-out-{number}", "layer", link(b"s", target) + END)
        yield Case(f"symlink-out-deep-{number}", "layer", link(b"d/s", b"../" + target) + END)
    for number, target in enumerate([up, b"/", b"/proc/self/cwd", b".", b"d", victim]):
        for what, entry in {
            "file": file(b"s/x"), "dir": header(b"s/x/", b"5"), "symlink": link(b"s/x", b"y"),
            "hard": hard(b"s/x", b"f"),
            "whiteout": file(b"s/.wh.x"), "opaque": file(b"s/.wh..wh..opq"), "self": file(b"s/"),
        }.items():  # fmt: skip
            made = file(b"f") + header(b"d/", b"5") + link(b"s", target) + entry + END
            yield Case(f"write-through-{number}-{what}", "layer", made)
    yield Case("link-chain", "layer", link(b"a", b"b") + link(b"b", up) + file(b"a/x") + END)
    yield Case("dir-becomes-link", "layer", header(b"d/", b"5") + link(b"d", up) + file(b"d/x") + END)
    yield Case("link-becomes-dir", "layer", link(b"d", up) + header(b"d/", b"5") + file(b"d/x") + END)
    yield Case("parent-becomes-link", "layer", file(b"d/e/f") + link(b"d/e", up) + file(b"d/e/x") + END)
    yield Case("file-over-link", "layer", link(b"s", victim) + file(b"s") + END, True)
    yield Case(
        "hard-of-link-then-file", "layer", link(b"s", victim) + hard(b"h", b"s") + file(b"h") + END, True
    )
    yield Case("fifo-over-link", "layer", link(b"s", victim) + header(b"s", b"6") + END, True)
    for number, target in enumerate(
        [
            victim,
            b"../x",
            b"nowhere",
            b"h",
            b"",
            b".",
            b"d",
            b"d/",
            b"s",
            b"s/x",
            b"/f",
            b"f/x",
            b".wh.f",
            b"\xff",
        ]
    ):
        made = file(b"f") + header(b"d/", b"5") + link(b"s", up) + hard(b"h", target) + END
        yield Case(f"hard-link-{number}", "layer", made, target == b"s")
    yield Case("hard-link-forward", "layer", hard(b"h", b"later") + file(b"later") + END)
    yield Case("hard-link-circle", "layer", hard(b"a", b"b") + hard(b"b", b"a") + END)
    yield Case("empty-symlink", "layer", link(b"s", b"") + END)
    yield Case("endless-symlink", "layer", pax(record(b"linkpath", b"x" * 5000)) + link(b"s", b"") + END)


def whiteouts(victim: bytes) -> Iterator[Case]:
    bad = [b".wh.", b".wh..", b".wh...", b"../.wh.x", b"a/../../.wh.x", b"/.wh.x", b"../.wh..wh..opq", b"f/.wh.x",
           victim + b"/.wh.x", b".wh./x/../../y"]  # fmt: skip
    for number, name in enumerate(bad):
        yield Case(f"whiteout-{number}", "layer", header(b"f", content=b"x") + header(name) + END)
    for number, name in enumerate(
        [b".wh.x", b"d/.wh.x", b".wh..wh.plnk", b".wh..wh..opq", b".wh.\xff", b".wh.f", b".wh.d"]
    ):
        made = (
            header(b"f", content=b"x")
            + header(b"d/", b"5")
            + header(name, content=b"content of a whiteout")
            + END
        )
        yield Case(f"usual-whiteout-{number}", "layer", made, True)
    yield Case("file-below-whiteout", "layer", header(b".wh.d") + header(b".wh.d/x") + END)


def devices() -> Iterator[Case]:
    for kind in b"34":
        for name in (b"null", b"dev/sda", b".wh.x/dev", b"x"):
            made = header(name, bytes([kind]), major=b"0000001\0", minor=b"0000003\0")
            yield Case(f"device-{chr(kind)}-{name.decode().replace('/', '-')}", "layer", made + END)
    for kind in b"8DMNSVZ\xff" + b"aQ":
        yield Case(f"type-{kind:02x}", "layer", header(b"x", bytes([kind]), b"data") + END)


def numbers() -> Iterator[Case]:
    fields = {"size": 12, "mode": 8, "uid": 8, "gid": 8}
    for field, width in fields.items():
        for number, raw in enumerate(
            [b"\xff" * width, b"\x80" + b"\xff" * (width - 1), b"\xc0" + bytes(width - 1), b"-1".ljust(width, b"\0"),
             b"9" * width, b"abc".ljust(width, b"\0"), b"0x10".ljust(width, b"\0"), b"1 2".ljust(width, b"\0"),
             b"7" * (width - 1) + b"\0"]
        ):  # fmt: skip
            yield Case(
                f"number-{field}-{number}",
                "layer",
                header(b"x", content=b"y", **{field: raw}) + END,
                field == "mode" or (number == 8 and field != "size"),
            )
    for number, raw in enumerate(
        [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11), b"not a time\0\0"]
    ):
        yield Case(f"number-mtime-{number}", "layer", header(b"x", mtime=raw) + END, True)
    for key in (b"size", b"uid", b"gid", b"mtime"):
        for number, value in enumerate(
            [
                b"-1",
                b"",
                b" 1",
                b"1e3",
                b"nan",
                b"9" * 30,
                b"0x1",
                b"\xd9\xa1",
                b"1.5",
                b"99999999999999999999",
            ]
        ):
            yield Case(
                f"pax-{key.decode()}-{number}",
                "layer",
                pax(record(key, value)) + header(b"x") + END,
                key == b"mtime",
            )
    for number, raw in enumerate(
        [bytes(8), b"        ", b"000000\0 ", b"777777\0 ", b"abcdefgh", b"\xff" * 8]
    ):
        yield Case(f"checksum-{number}", "layer", header(b"x", chksum=raw) + END)


def extended() -> Iterator[Case]:
    for number, raw in enumerate(
        [b"5 a=b\n", b"99 a=b\n", b"0 a=b\n", b"-6 a=b\n", b"a=b\n", b"6 a=b", b"5 ab\n", b"6 =ab\n", b"6  a=b", b"\n",
         b"6 a=b\n" * 2 + b"x", b"999999999999999999999999 a=b\n", b"\xd9\xa6 a=b\n", b" ", b"6 a=b\n6"]
    ):  # fmt: skip
        yield Case(f"pax-record-{number}", "layer", pax(raw) + header(b"x") + END)
    for number, (key, value) in enumerate(
        [(b"path", b"a\0b"), (b"path", b"../x"), (b"path", b"/x"), (b"path", b""), (b"GNU.sparse.map", b"0,1"),
         (b"GNU.sparse.major", b"1"), (b"SCHILY.xattr.trusted.overlay.opaque", b"y"), (b"SCHILY.xattr.trusted.x", b"y"),
         (b"SCHILY.xattr.security.evil", b"y"), (b"SCHILY.xattr.", b"y"), (b"SCHILY.xattr.user", b"y"),
         (b"SCHILY.xattr.user.x", b"y" * 70_000), (b"SCHILY.xattr.user." + b"x" * 300, b"y"),
         (b"SCHILY.xattr.security.capability", b"y"), (b"SCHILY.xattr.user.\0", b"y"),
         (b"SCHILY.xattr.user.overlay.opaque", b"y")]
    ):  # fmt: skip
        passes = key == b"SCHILY.xattr.user.overlay.opaque"
        yield Case(
            f"pax-key-{number}", "layer", pax(record(key, value)) + header(b"x", content=b"y") + END, passes
        )
    for key in (b"path", b"linkpath", b"size", b"GNU.sparse.size", b"SCHILY.xattr.user.x"):
        yield Case(f"global-{key.decode()}", "layer", pax(record(key, b"1"), b"g") + header(b"x") + END)
    yield Case("many-extended", "layer", pax(record(b"a", b"b")) * 12 + header(b"x") + END)
    yield Case("extended-at-the-end", "layer", pax(record(b"path", b"x")) + END)
    yield Case("huge-pax", "layer", pax(record(b"comment", b"x" * (2 << 20))) + header(b"x") + END)
    yield Case("huge-pax-promised", "layer", header(b"pax", b"x", size=b"77777777777\0") + END)
    for kind in (b"L", b"K"):
        shown = kind.decode()
        yield Case(f"gnu-{shown}-huge", "layer", header(b"@", kind, b"x" * (2 << 20)) + header(b"x") + END)
        yield Case(f"gnu-{shown}-promised", "layer", header(b"@", kind, size=b"77777777777\0") + END)
        yield Case(
            f"gnu-{shown}-up",
            "layer",
            header(b"@", kind, b"../../x\0") + header(b"x", b"2" if kind == b"K" else b"0") + END,
        )
        yield Case(
            f"gnu-{shown}-nul",
            "layer",
            header(b"@", kind, b"a\0b\0") + header(b"x", b"2" if kind == b"K" else b"0") + END,
        )
    yield Case("sparse-gnu", "layer", header(b"x", b"S", b"data") + END)
    yield Case("many-pax-records", "layer", pax(record(b"a", b"b") * 100_000) + header(b"x") + END, True)


def duplicates(victim: bytes) -> Iterator[Case]:
    file, directory, link = header(b"n", content=b"1"), header(b"n/", b"5"), header(b"n", b"2", link=victim)
    yield Case("file-dir", "layer", file + directory + END)
    yield Case("dir-file", "layer", directory + file + END)
    yield Case("dir-link", "layer", directory + link + END)
    yield Case("file-slash", "layer", header(b"n/", b"0", b"1") + END)
    yield Case("file-file", "layer", file + header(b"n", content=b"22") + END, True)
    yield Case("dir-dir", "layer", directory + directory + END, True)
    yield Case(
        "case-tricks",
        "layer",
        header(b"D", b"2", link=victim) + header(b"d/", b"5") + header(b"d/x") + END,
        True,
    )
    yield Case("dot-tricks", "layer", header(b"d/./n") + header(b"d//n") + header(b"./d/n") + END, True)
    yield Case("many-times", "layer", file * 400 + END, True)
    yield Case("implied-then-file", "layer", header(b"d/x") + header(b"d", content=b"1") + END)


def bombs() -> Iterator[Case]:
    yield Case("bomb-size", "layer", header(b"x", content=bytes(9 << 20)) + END)
    yield Case("bomb-promised", "layer", header(b"x", size=b"77777777777\0") + END)
    yield Case("bomb-entries", "layer", b"".join(header(b"f%d" % i) for i in range(600)) + END)
    yield Case("bomb-directories", "layer", b"".join(header(b"d%d/e/f" % i) for i in range(300)) + END)
    yield Case(
        "bomb-hard-links",
        "layer",
        header(b"f") + b"".join(header(b"h%d" % i, b"1", link=b"f") for i in range(600)) + END,
    )
    yield Case("bomb-whiteouts", "layer", b"".join(header(b".wh.%d" % i) for i in range(600)) + END)
    zeros = bytes(12 << 20)
    yield Case("bomb-gzip", "blob", gzip.compress(zeros, 9))
    yield Case("bomb-gzip-twice", "blob", gzip.compress(gzip.compress(zeros, 9), 9))
    yield Case("bomb-gzip-members", "blob", gzip.compress(b"", 9) * 20_000)
    yield Case("bomb-zstd", "blob", zstandard.ZstdCompressor().compress(zeros))
    yield Case("bomb-zstd-frames", "blob", zstandard.ZstdCompressor().compress(b"") * 20_000)
    yield Case("zstd-window", "blob", b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(20))
    yield Case("zstd-skippable", "blob", b"\x50\x2a\x4d\x18" + struct.pack("<I", 0xFFFFFFFF) + bytes(100))
    yield Case("bzip2-layer", "blob", bz2.compress(END))
    yield Case("xz-layer", "blob", lzma.compress(END))
    yield Case("bomb-aci-xz", "aci", lzma.compress(zeros))
    yield Case("bomb-aci-bzip2", "aci", bz2.compress(zeros))
    yield Case("gzip-garbage-behind", "blob", gzip.compress(END) + b"garbage")
    yield Case("gzip-bad-crc", "blob", gzip.compress(b"x" * 2000)[:-8] + bytes(8))
    yield Case("empty-blob", "blob", b"")


def truncated() -> Iterator[Case]:
    """Cut at every block, and beside some: the digest is right, so what stops it is the form."""
    whole = (
        header(b"d/", b"5") + header(b"d/f", content=b"x" * 700) + pax(record(b"path", b"d/" + b"n" * 150))
        + header(b"n")
        + header(b"@", b"L", b"l" * 600) + header(b"l", content=b"y") + header(b"s", b"2", link=b"d") + END
    )  # fmt: skip
    for cut in [*range(0, len(whole), BLOCK), *range(1, len(whole), 3 * BLOCK + 7)]:
        # An OCI layer may end without its trailer: at a border of entries a cut is no fault of form.
        yield Case(f"cut-{cut}", "layer", whole[:cut], True)
        yield Case(f"cut-aci-{cut}", "aci", aci(b"{}", whole)[:cut])
    packed = gzip.compress(whole)
    for cut in range(0, len(packed), max(1, len(packed) // 12)):
        yield Case(f"cut-gzip-{cut}", "blob", packed[:cut])
    chance = random.Random(1)
    for number in range(40):
        damaged = bytearray(whole)
        for _ in range(1 + number % 4):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        yield Case(f"flipped-{number}", "layer", bytes(damaged), True)
    for number in range(15):
        damaged = bytearray(packed)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        yield Case(f"flipped-gzip-{number}", "blob", bytes(damaged))
    for number in range(10):
        yield Case(f"noise-{number}", "layer", chance.randbytes(BLOCK * (1 + number)))
