"""What machines are started with: the archive, the kernel, its modules, the Python, the tiny programs."""

import gzip
import lzma
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from executor.kvm import kernel, lz4, probe, runtime, tiny
from executor.kvm.cpio import Archive
from executor.kvm.kernel import KernelError


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    archive = Archive()
    archive.file("usr/bin/tool", b"#!", executable=True)
    archive.file("usr/empty", b"")
    archive.directory("usr/bin")
    listed = subprocess.run(
        ["cpio", "-tv"], input=archive.pack(), capture_output=True, check=True, cwd=tmp_path
    ).stdout.decode()
    rows = [(line.split()[0], line.split()[-1]) for line in listed.splitlines()]
    assert rows == [
        ("drwxr-xr-x", "usr"),
        ("drwxr-xr-x", "usr/bin"),
        ("-rwxr-xr-x", "usr/bin/tool"),
        ("-rw-r--r--", "usr/empty"),
    ]


def test_an_archive_takes_a_name_once() -> None:
    archive = Archive()
    archive.file("init", b"")
    with pytest.raises(ValueError, match="already"):
        archive.file("init", b"")


# Three literals and a copy of 269 bytes from three before; five literals.
_BLOCK = bytes((0x3F,)) + b"abc" + bytes((3, 0, 247)) + bytes((0x50,)) + b"abcab"


def test_lz4_copies_that_overlap_themselves() -> None:
    data = lz4.MAGIC + struct.pack("<I", len(_BLOCK)) + _BLOCK
    assert lz4.decompress(data) == (b"abc" * 100)[: 3 + 15 + 247 + 4] + b"abcab"
    assert lz4.decompress(data + struct.pack("<I", 1 << 30)).endswith(b"abcab"), "a size may follow"


@pytest.mark.parametrize("block", [b"\xf0", bytes((0x10, 65, 9, 0, 0)), bytes((0x10, 65, 0, 0, 0))])
def test_damaged_lz4_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match="LZ4"):
        lz4.decompress(lz4.MAGIC + struct.pack("<I", len(block)) + block)


def _image(payload: bytes, version: bytes = b"6.1.0-test (somebody)") -> bytes:
    """A bzImage's head with a payload (Documentation/arch/x86/boot.rst)."""
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300 : 0x300 + len(version)] = version
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def test_kernels_are_unpacked() -> None:
    plain = b"\x7fELF" + bytes(5000)
    assert kernel.unpack(_image(lzma.compress(plain) + struct.pack("<I", len(plain)))) == plain
    assert kernel.unpack(_image(gzip.compress(plain) + struct.pack("<I", len(plain)))) == plain
    other = _image(b"\x28\xb5\x2f\xfd of zstd")
    assert kernel.unpack(other) == other, "QEMU starts it as it is"
    with pytest.raises(KernelError, match="damaged"):
        kernel.unpack(_image(b"\x1f\x8b" + bytes(100)))


def test_the_newest_kernel_for_clouds_is_taken(tmp_path: Path) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    boot.mkdir()
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.12.0-1-amd64", "6.1.0-99-cloud-amd64"):
        (boot / f"vmlinuz-{release}").write_bytes(_image(b"", release.encode()))
        if "-99-" not in release:
            (modules / release).mkdir(parents=True)
            (modules / release / "modules.dep").write_text("")
    assert kernel.find(boot=boot, modules=modules).release == "6.1.0-10-cloud-amd64"
    given = kernel.find(boot / "vmlinuz-6.12.0-1-amd64", modules=modules)
    assert given.modules == modules / "6.12.0-1-amd64"
    with pytest.raises(KernelError, match="its modules are not in"):
        kernel.find(boot / "vmlinuz-6.1.0-99-cloud-amd64", modules=modules)
    with pytest.raises(KernelError, match="linux-image-cloud-amd64"):
        kernel.find(boot=tmp_path, modules=modules)
    (tmp_path / "text").write_text("no kernel")
    with pytest.raises(KernelError, match="no bzImage"):
        kernel.find(tmp_path / "text", modules=modules)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "a/mine.ko: a/near-by.ko a/far.ko\na/near-by.ko: a/far.ko\na/far.ko:\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/fs/inside.ko\n")
    (tmp_path / "a").mkdir()
    for name in ("mine", "near-by", "far"):
        (tmp_path / "a" / f"{name}.ko").write_text(name)
    found = kernel.Kernel(tmp_path / "vmlinuz", "6.1", tmp_path)
    loaded = kernel.modules(found, ("inside", "mine"))
    assert loaded == [("far", b"far"), ("near_by", b"near-by"), ("mine", b"mine")]
    with pytest.raises(KernelError, match="has no module virtiofs"):
        kernel.modules(found, ("virtiofs",))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86_64")
def test_the_time_stamp_counter_is_measured() -> None:
    khz = [tiny.counter_khz() for _ in range(2)]
    assert 100_000 < khz[0] < 10_000_000
    assert abs(khz[0] - khz[1]) < khz[0] // 100


def test_the_guest_s_python_has_what_stage1_imports() -> None:
    archive = Archive()
    runtime.add(archive)
    packed = archive.pack()
    for name in ("executor/stage1/sandbox.pyc", "executor/kvm/guest/agent.pyc", "os.pyc", "fcntl"):
        assert name.encode() in packed
    for name in ("pydantic", "aiohttp", "asyncio/", "executor/pods"):
        assert name.encode() not in packed


@pytest.mark.root
def test_the_guest_s_program_can_be_imported_there(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    archive = Archive()
    runtime.add(archive)
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive.pack(), cwd=tmp_path, check=True)
    done = subprocess.run(
        ["chroot", str(tmp_path), f"/{runtime.PROGRAM}", "-IS", "-c", "import executor.kvm.guest.main"],
        env={**os.environ, "LD_LIBRARY_PATH": "/lib"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_programs_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "QEMU", "qemu-of-nobody")
    monkeypatch.setattr(probe, "MACHINE", os.uname().machine)
    with pytest.raises(probe.ProbeError, match="install qemu-system-x86 "):
        probe.tools()
    monkeypatch.setattr(probe, "MACHINE", "vax")
    with pytest.raises(probe.ProbeError, match="knows vax only"):
        probe.tools()
