"""The extractor against archives that mean harm, and against those that are only odd.

Every malicious case runs in a directory beside canaries; whatever happens inside, nothing outside may change.
"""

import hashlib
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.stage0.errors import ImageBroken
from executor.stage0.extract import Extractor, Summary, extract
from executor.stage0.streams import Limits
from executor.stage0.tarstream import TarReader
from executor.stage0.tarwrite import header, trailer

pytestmark = pytest.mark.root

END = trailer()
XATTR = "SCHILY.xattr."
LIMITS = Limits(unpacked_bytes=1 << 20, entries=200, header_bytes=64 * 1024)


class Bytes:
    """A reader that gives small, odd pieces."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, n: int, /) -> bytes:
        data = self._data[self._at : self._at + min(n, 1337)]
        self._at += len(data)
        return data


Extract = Callable[..., Summary]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "jail" / "root"
    root.mkdir(parents=True)
    return root


@pytest.fixture
def unpack(root: Path) -> Extract:
    """Extract bytes into `root`."""

    def call(data: bytes, *, aci: bool = False, limits: Limits = LIMITS) -> Summary:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            reader = TarReader(Bytes(data), limits)
            if not aci:
                return extract(reader, fd, limits)
            extractor = Extractor(fd, limits, whiteouts=False, repeats=False)
            while (entry := reader.next()) is not None:
                extractor.add(entry, reader)
            return extractor.finish()
        finally:
            os.close(fd)

    return call


def snapshot(directory: Path, skip: Path) -> list[tuple[object, ...]]:
    """Everything below a directory but `skip`: names, types, modes, owners, contents, link targets."""
    rows: list[tuple[object, ...]] = []
    for path in sorted(directory.rglob("*")):
        if path == skip or skip in path.parents:
            continue
        info = path.lstat()
        body = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        times = 0 if path == skip.parent else info.st_mtime_ns
        rows.append((str(path), info.st_mode, info.st_uid, info.st_gid, info.st_nlink, times, body))
    return rows


@pytest.fixture
def canaries(tmp_path: Path, root: Path) -> Iterator[Path]:
    """A directory beside the jail that must stay as it is; checked at the end."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    (outside / "run").write_text("#!/bin/sh\n")
    (root.parent / "sibling").write_text("untouched")
    before = snapshot(tmp_path, root)
    yield outside
    assert snapshot(tmp_path, root) == before


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


KINDS = (("file", FILE, ""), ("dir", DIR, ""), ("link", LINK, "x"), ("fifo", tarfile.FIFOTYPE, ""))


def names(**cases: str) -> list[tuple[str, list[tuple[Any, ...]], str]]:
    """Names that every kind of entry is refused under."""
    return [
        (f"{kind}-{name[:30]!r}", [(name, flag, target)], words)
        for words, group in cases.items()
        for name in group.split()
        for kind, flag, target in KINDS
    ]


CORPUS: list[tuple[str, list[tuple[Any, ...]], str]] = [
    *names(**{
        "'..'": "../escape a/../../escape .. ./../x a/b/../c a\\../../x",
        "absolute": "/etc/escape //escape {outside}/pwned",
        "too long": "a/" * 2500 + "x",
        "File name too long": "x" * 300,
    }),
    ("through-link", [("d", LINK, "../../outside"), ("d/pwned", FILE, "")], "leads out"),
    ("through-absolute-link", [("d", LINK, "{outside}"), ("d/x", FILE, "")], "goes through 'd', which is a symlink"),
    ("through-inner-link", [("real", DIR, ""), ("d", LINK, "real"), ("d/x", FILE, "")], "which is a symlink"),
    ("through-two-links", [("a", LINK, "/"), ("b", LINK, "a"), ("b/x", FILE, "")], "which is a symlink"),
    ("through-link-dir", [("d", LINK, "{outside}"), ("d/sub/", DIR, "")], "which is a symlink"),
    ("through-link-whiteout", [("d", LINK, "{outside}"), ("d/.wh.file", FILE, "")], "which is a symlink"),
    ("through-link-opaque", [("d", LINK, "{outside}"), ("d/.wh..wh..opq", FILE, "")], "which is a symlink"),
    ("through-link-link", [("d", LINK, "{outside}"), ("d/l", LINK, "/")], "which is a symlink"),
    ("through-link-hard", [("f", FILE, ""), ("d", LINK, "{outside}"), ("d/h", HARD, "f")], "which is a symlink"),
    ("through-link-fifo", [("d", LINK, "{outside}"), ("d/p", tarfile.FIFOTYPE, "")], "which is a symlink"),
    ("through-file", [("f", FILE, ""), ("f/x", FILE, "")], "which is a file"),
    ("through-fifo", [("f", tarfile.FIFOTYPE, ""), ("f/x", FILE, "")], "which is a fifo"),
    ("through-hard-link", [("f", FILE, ""), ("h", HARD, "f"), ("h/x", FILE, "")], "which is a file"),
    ("dir-becomes-link", [("d/", DIR, ""), ("d", LINK, "{outside}"), ("d/pwned", FILE, "")], "is there twice"),
    ("full-dir-becomes-link", [("d/x", FILE, ""), ("d", LINK, "{outside}")], "is there twice"),
    ("link-becomes-dir", [("d", LINK, "{outside}"), ("d/", DIR, ""), ("d/pwned", FILE, "")], "is there twice"),
    ("dir-becomes-file", [("d/", DIR, ""), ("d", FILE, "")], "is there twice"),
    ("file-becomes-dir", [("d", FILE, ""), ("d/", DIR, "")], "is there twice"),
    ("root-is-link", [("./", LINK, "{outside}")], "the root has to be a directory"),
    ("root-is-file", [(".", FILE, "")], "the root has to be a directory"),
    ("empty-name", [("", FILE, "")], "name is empty"),
    ("link-out-1", [("a/b/l", LINK, "../../..")], "leads out"),
    ("link-out-2", [("a/b/l", LINK, "../../../etc")], "leads out"),
    ("link-out-3", [("a/b/l", LINK, "x/../../../..")], "leads out"),
    ("link-out-4", [("l", LINK, "..")], "leads out"),
    ("link-empty", [("l", LINK, "")], "empty"),
    ("link-endless", [("l", LINK, "x" * 5000)], "endless"),
    ("hard-absolute", [("h", HARD, "{outside}/file")], "absolute"),
    ("hard-dotdot", [("h", HARD, "../../outside/file")], "'..'"),
    ("hard-missing", [("h", HARD, "nobody")], "not an earlier entry"),
    ("hard-later", [("h", HARD, "f"), ("f", FILE, "")], "not an earlier entry"),
    ("hard-self", [("h", HARD, "h")], "not an earlier entry"),
    ("hard-dir", [("d/", DIR, ""), ("h", HARD, "d")], "is a directory"),
    ("hard-implicit-dir", [("d/f", FILE, ""), ("h", HARD, "d")], "is a directory"),
    ("hard-root", [("h", HARD, ".")], "is a directory"),
    ("hard-through-link", [("d", LINK, "{outside}"), ("h", HARD, "d/file")], "not an earlier entry"),
    ("hard-empty", [("h", HARD, "")], "empty"),
    ("char-device", [("null", tarfile.CHRTYPE, "")], "device nodes are refused"),
    ("block-device", [("sda", tarfile.BLKTYPE, "")], "device nodes are refused"),
    ("whiteout-dotdot", [(".wh...", FILE, "")], "whiteout without a name"),
    ("whiteout-dot", [(".wh..", FILE, "")], "whiteout without a name"),
    ("whiteout-nothing", [(".wh.", FILE, "")], "whiteout without a name"),
    ("whiteout-escape", [("a/../../.wh.outside", FILE, "")], "'..'"),
    ("whiteout-dir-escape", [(".wh.x/../../y", FILE, "")], "'..'"),
    ("too-many", [(f"f{i}", FILE, "") for i in range(201)], "more than 200"),
    ("too-many-implicit", [("/".join(["d"] * 150) + f"/{i}/x", FILE, "") for i in range(60)], "more than 200"),
    ("contiguous-sparse", [("s", tarfile.GNUTYPE_SPARSE, "")], "not supported"),
    ("unknown-type", [("s", b"Z", "")], "not supported"),
]  # fmt: skip


# A whiteout is just a name in an ACI: test_whiteouts_mean_nothing_in_an_aci.
CASES = [(f"layer-{i}", e, w, False) for i, e, w in CORPUS]
CASES += [(f"aci-{i}", e, w, True) for i, e, w in CORPUS if "hiteout" not in w]


@pytest.mark.parametrize(("entries", "words", "aci"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_malicious(
    entries: list[tuple[Any, ...]], words: str, aci: bool, canaries: Path, unpack: Extract, tar: Any,
) -> None:  # fmt: skip
    made = tar()
    for name, kind, target in entries:
        made.add(name.format(outside=canaries), kind=kind, linkname=target.format(outside=canaries))
    with pytest.raises(ImageBroken) as caught:
        unpack(made.bytes(), aci=aci)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def pax(**records: bytes) -> bytes:
    """An extended header block with these records."""
    body = b""
    for key, value in records.items():
        tail = b" " + key.encode() + b"=" + value + b"\n"
        length = len(tail) + 1
        while len(str(length)) + len(tail) != length:
            length += 1
        body += str(length).encode() + tail
    return meta(b"x", body)


def meta(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return header("m", mode=0o644, size=length, kind=kind) + body + bytes(-len(body) % 512)


def plain(name: str = "f", body: bytes = b"x", **more: Any) -> bytes:
    return header(name, mode=0o644, size=len(body), **more) + body + bytes(-len(body) % 512)


def damaged(at: int, value: bytes) -> bytes:
    """A header with other bytes at an offset and a right checksum."""
    block = bytearray(plain()[:512])
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


RAW: list[tuple[str, bytes, str]] = [
    ("empty", b"", "truncated"),
    ("not-a-tar", b"hello world" * 100, "damaged, or not a tar"),
    ("half-a-header", plain()[:300], "truncated in a header"),
    ("no-content", header("f", mode=0o644, size=100), "truncated in the middle"),
    ("half-a-file", plain("f", b"x" * 1000)[:1000], "truncated in the middle"),
    ("no-end", plain(), "no end-of-archive"),
    ("wrong-checksum", b"\1" + plain()[1:] + END, "checksum is wrong"),
    ("data-behind-zero", plain() + bytes(512) + plain(), "data behind a zero block"),
    ("huge-size", header("f", mode=0o644, size=1 << 40), "larger than the limit"),
    ("negative-size", damaged(124, b"\xff" * 12), "negative"),
    ("endless-size", damaged(124, b"\x80" + b"\xff" * 11), "larger than the limit"),
    ("size-not-a-number", damaged(124, b"12x45678901\0"), "not a number"),
    ("huge-owner", damaged(108, b"\x80" + b"\xff" * 7), "out of range"),
    ("bad-mode", damaged(100, b"77z\0"), "not a number"),
    ("huge-pax", meta(b"x", b"", 1 << 30), "extended header of 1073741824 bytes"),
    ("huge-longname", meta(b"L", b"", 1 << 30), "extended header of 1073741824 bytes"),
    ("huge-longlink", meta(b"K", b"", 65 * 1024), "extended header of 66560 bytes"),
    ("truncated-pax", meta(b"x", b"", 1024), "truncated in an extended header"),
    ("many-headers", pax(path=b"a") * 20 + plain() + END, "extended headers in a row"),
    ("pax-then-end", pax(path=b"a") + END, "truncated"),
    ("pax-no-length", meta(b"x", b"path=x\n") + plain(), "damaged pax"),
    ("pax-short-length", meta(b"x", b"5 path=x\n") + plain(), "damaged pax"),
    ("pax-long-length", meta(b"x", b"500 path=x\n") + plain(), "damaged pax"),
    ("pax-zero-length", meta(b"x", b"0 path=x\n") + plain(), "damaged pax"),
    ("pax-endless-length", meta(b"x", b"9" * 30 + b" path=x\n") + plain(), "damaged pax"),
    ("pax-no-equals", meta(b"x", b"9 pathxx\n") + plain(), "damaged pax"),
    ("pax-nul-name", pax(path=b"a\0b") + plain() + END, "NUL"),
    ("pax-escape", pax(path=b"../../outside/pwned") + plain() + END, "'..'"),
    ("pax-absolute", pax(path=b"/etc/pwned") + plain() + END, "absolute"),
    ("pax-linkpath", pax(linkpath=b"../../outside/file") + plain(kind=b"1", body=b"") + END, "'..'"),
    ("pax-size", pax(size=b"-5") + plain() + END, "not a number"),
    ("pax-size-text", pax(size=b"many") + plain() + END, "not a number"),
    ("pax-size-huge", pax(size=b"9" * 19) + plain() + END, "larger than the limit"),
    ("pax-uid", pax(uid=b"99999999999") + plain() + END, "out of range"),
    ("pax-mtime", pax(mtime=b"yesterday") + plain() + END, "not a time"),
    ("pax-sparse", pax(**{"GNU.sparse.major": b"1"}) + plain() + END, "sparse"),
    ("pax-trusted", pax(**{XATTR + "trusted.overlay.opaque": b"y"}) + plain() + END, "would steer overlayfs"),
    ("pax-redirect", pax(**{XATTR + "trusted.overlay.redirect": b"/etc"}) + plain() + END, "would steer overlayfs"),
    ("pax-trusted-link", pax(**{XATTR + "trusted.x": b"y"}) + header("l", mode=0, kind=b"2") + END, "steer"),
    ("pax-odd-attribute", pax(**{XATTR + "security.apparmor": b"y"}) + plain() + END, "is refused"),
    ("global-path", meta(b"g", b"10 path=x\n") + plain() + END, "global header sets path"),
    ("global-size", meta(b"g", b"10 size=9\n") + plain() + END, "global header sets size"),
    ("gnu-escape", meta(b"L", b"../" * 50 + b"outside/pwned\0") + plain() + END, "'..'"),
    ("gnu-absolute", meta(b"L", b"/" + b"a/" * 100 + b"x\0") + plain() + END, "absolute"),
    ("gnu-link-escape", meta(b"K", b"../" * 50 + b"x\0") + header("l", mode=0, kind=b"2", link="y") + END, "leads out"),
    ("prefix-escape", damaged(345, b"../..") + b"x" + bytes(511) + END, "'..'"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), [c[1:] for c in RAW], ids=[c[0] for c in RAW])
def test_malformed(data: bytes, words: str, canaries: Path, unpack: Extract) -> None:
    with pytest.raises(ImageBroken) as caught:
        unpack(data)
    assert words in str(caught.value)
    assert canaries.exists()


def test_every_cut_of_an_archive_is_noticed(canaries: Path, root: Path, unpack: Extract, tar: Any) -> None:
    data = tar().dir("d/").add("d/f", b"x" * 700).link("l", "d/f").add("long" * 60, b"y").bytes()
    last = len(data.rstrip(b"\0")) + 511 & ~511
    for cut in range(0, last + 1, 256):
        with pytest.raises(ImageBroken):
            unpack(data[:cut])
        subprocess.run(["rm", "-rf", *map(str, root.iterdir())], check=True)
    assert canaries.exists()


def test_every_flipped_byte_is_refused_or_stays_inside(
    canaries: Path, root: Path, unpack: Extract, tar: Any
) -> None:
    """Fuzzing of headers with the checksum put right: nothing gets out, nothing but ImageBroken is raised."""
    base = tar().dir("d/").add("d/f", b"x").link("l", "d").hard("h", "d/f").bytes()
    done = 0
    for block in range(0, 512 * 6, 512):
        for at in (0, 1, 100, 108, 124, 136, 156, 157, 158, 257, 263, 345, 346):
            data = bytearray(base)
            data[block + at] ^= 0x2E
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
            try:
                unpack(bytes(data))
            except ImageBroken:
                done += 1
            subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True)
    assert done > 10
    assert canaries.exists()


# -- what is right stays right


def test_a_tree_comes_out_as_it_went_in(root: Path, unpack: Extract, tar: Any) -> None:
    made = tar()
    made.dir("./", mode=0o750, uid=3, gid=4, mtime=1000)
    made.dir("d/", mode=0o2775, uid=1, gid=2, mtime=1234.5)
    made.add("d/setuid", b"content", mode=0o4755, uid=5, gid=6, mtime=99)
    made.add("d/zero")
    made.link("d/link", "../etc/passwd")
    made.link("abs", "/usr/lib")
    made.link("clamped", "/../etc")  # the root's parent is the root
    made.hard("hard", "d/setuid")
    made.add("implicit/deep/file", b"x" * 100_000)
    made.add("pipe", kind=tarfile.FIFOTYPE, mode=0o622)
    made.add("ü" * 80, b"utf-8")
    made.add("old-dir/", kind=tarfile.AREGTYPE)
    summary = unpack(made.bytes())
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid, root.stat().st_mtime) == (0o750, 3, 1000)
    info = (root / "d/setuid").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o4755, 5, 6, 99)
    assert info.st_ino == (root / "hard").stat().st_ino
    info = (root / "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o2775, 1, 2, 1234.5)
    assert (root / "d/zero").stat().st_gid == 0
    assert os.readlink(root / "d/link") == "../etc/passwd"
    assert os.readlink(root / "abs") == "/usr/lib"
    assert os.readlink(root / "clamped") == "/../etc"
    assert (root / "implicit/deep/file").read_bytes() == b"x" * 100_000
    assert stat.S_IMODE((root / "implicit").stat().st_mode) == 0o755
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert (root / ("ü" * 80)).read_bytes() == b"utf-8"
    assert (root / "old-dir").is_dir()
    assert summary.bytes == 7 + 100_000 + 5


def test_gnu_tar_is_understood(
    root: Path, unpack: Extract, rootfs: Path, run: Callable[..., str], tmp_path: Path
) -> None:
    for form in ("gnu", "pax", "ustar", "v7"):
        target = tmp_path / f"{form}.tar"
        skip = ["--exclude=n*n"] if form in {"v7", "ustar"} else []  # no room for long names
        run("tar", f"--format={form}", *skip, "--numeric-owner", "-C", rootfs, "-cf", target, ".")
        unpack(target.read_bytes(), limits=Limits())
        compare = ["diff", "-r", "--no-dereference", rootfs, root]
        differences = subprocess.run(compare, capture_output=True, text=True, check=False).stdout.splitlines()
        assert [line for line in differences if "nnnn" not in line] == []
        assert stat.S_IMODE((root / "bin/busybox").stat().st_mode) == 0o4755
        subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True)


def test_attributes(root: Path, unpack: Extract) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep
    data = pax(**{XATTR + "security.capability": capability, XATTR + "user.note": b"n",
                  XATTR + "security.selinux": b"system_u"})  # fmt: skip
    summary = unpack(data + plain("f", b"x", uid=7) + END)
    assert os.getxattr(root / "f", "security.capability") == capability
    assert os.getxattr(root / "f", "user.note") == b"n"
    assert summary.skipped_xattrs == {"security.selinux"}


def test_a_later_file_of_the_same_name_wins_in_a_layer(
    root: Path, unpack: Extract, tar: Any, canaries: Path
) -> None:
    made = (
        tar()
        .add("f", b"one")
        .hard("h", "f")
        .add("f", b"two")
        .link("l", str(canaries / "file"))
        .add("l", b"three")
    )
    unpack(made.dir("d/").dir("d/", mode=0o700).bytes())
    assert ((root / "f").read_bytes(), (root / "h").read_bytes(), (root / "l").read_bytes()) == (
        b"two",
        b"one",
        b"three",
    )
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700


@pytest.mark.parametrize("first", [FILE, LINK, DIR])
def test_a_repeated_name_is_an_error_in_an_aci(first: bytes, unpack: Extract, tar: Any) -> None:
    with pytest.raises(ImageBroken, match="is there twice"):
        unpack(tar().add("a", kind=first, linkname="x").add("a", kind=first, linkname="x").bytes(), aci=True)


def test_a_directory_may_follow_its_content_in_an_aci(root: Path, unpack: Extract, tar: Any) -> None:
    unpack(tar().add("d/f", b"x").dir("d/", mode=0o700).bytes(), aci=True)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700


# -- whiteouts


def is_whiteout(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_whiteouts(root: Path, unpack: Extract, tar: Any) -> None:
    made = tar().dir("d/").add("d/.wh.gone").add(".wh.top").dir("o/").add("o/new").add("o/.wh..wh..opq")
    made.add("both/x").add(".wh.both").add(".wh.file").add("file", b"new").add(".wh..wh.plnk").add("i/.wh.j")
    unpack(made.bytes())
    assert is_whiteout(root / "d/gone")
    assert is_whiteout(root / "top")
    assert is_whiteout(root / "i/j")
    assert is_opaque(root / "o")
    assert is_opaque(root / "both")
    assert (root / "file").read_bytes() == b"new"
    assert not is_opaque(root / "d")
    assert not any(path.name.startswith(".wh.") for path in root.rglob("*"))


def test_whiteouts_mean_nothing_in_an_aci(root: Path, unpack: Extract, tar: Any) -> None:
    unpack(tar().add(".wh.x", b"just a name").add("d/.wh..wh..opq").bytes(), aci=True)
    assert (root / ".wh.x").read_bytes() == b"just a name"
    assert not is_opaque(root / "d")


def test_the_content_is_exact_over_odd_reads(root: Path, unpack: Extract, tar: Any) -> None:
    body = bytes(range(256)) * 1111
    unpack(tar().add("f", body).add("g", body[:513]).add("h", body[:512]).bytes())
    assert hashlib.sha256((root / "f").read_bytes()).digest() == hashlib.sha256(body).digest()
    assert ((root / "g").read_bytes(), (root / "h").read_bytes()) == (body[:513], body[:512])
