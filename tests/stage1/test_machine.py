"""Lists of system calls and the program that executes them: on this machine, and aarch64's under emulation.

Real lists, really executed. What a pod's init and an app's start do with them is what the other tests are about.
"""

import errno
import os
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import machine, syscalls
from executor.stage1.machine import aarch64, assemble, x86_64
from executor.stage1.machine.assemble import ANY, Label, List, Value

REPORT, AT_FDCWD = machine.REPORT, syscalls.AT_FDCWD
VFORK = 0x100 | 0x4000 | signal.SIGCHLD
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

Run = Callable[..., tuple[list[tuple[int, int]], int]]


def _pairs(data: bytes) -> list[tuple[int, int]]:
    return [(low, high) for low, high in struct.iter_unpack("<II", data)]


@pytest.fixture(scope="module")
def native() -> machine.Machine:
    """The machine, where there is one."""
    made = machine.get()
    if made is None:
        pytest.skip("no lists for this machine")
    return made


@pytest.fixture
def run(native: machine.Machine) -> Run:
    """Execute a list; what it reported, as pairs of numbers, and its exit status."""

    def go(todo: List, *, stdout: int = 2, flags: int = 0) -> tuple[list[tuple[int, int]], int]:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        source = machine.readable(todo.finish())
        ready, report = os.pipe2(os.O_CLOEXEC)
        try:
            pid = native.spawn((null, stdout, 2, source, report), name="gantry-test", flags=flags)
        finally:
            for fd in (null, source, report):
                os.close(fd)
        with open(ready, "rb") as file:
            said = file.read()
        return _pairs(said), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return go


def report_pid(todo: List) -> None:
    pid = todo.room(8)
    todo.call("getpid", result=pid)
    todo.call("write", REPORT, pid, 8)


def test_results_are_stored_and_reported(run: Run) -> None:
    todo = List()
    report_pid(todo)
    todo.call("exit_group", 7)
    ((pid, zero),), code = run(todo)
    assert (zero, code) == (0, 7)
    assert pid not in (0, os.getpid())


def test_a_call_that_fails_ends_it_and_names_itself(run: Run) -> None:
    todo = List()
    todo.call("getpid")
    todo.call("openat", AT_FDCWD, "/nowhere/at/all", os.O_RDONLY)
    todo.call("exit_group", 0)
    assert run(todo) == ([(1, errno.ENOENT)], 1)


@pytest.mark.parametrize("tolerate", [errno.ENOENT, ANY])
def test_failures_can_be_tolerated_with_a_jump_or_without(run: Run, tolerate: int) -> None:
    todo, there = List(), Label()
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=tolerate)
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=tolerate, jump=there)
    todo.call("exit_group", 1)
    todo.label(there)
    todo.call("exit_group", 3)
    assert run(todo) == ([], 3)


def test_another_errno_is_not_tolerated(run: Run) -> None:
    todo = List()
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=errno.EPERM)
    assert run(todo) == ([(0, errno.ENOENT)], 1)


def test_the_order_is_the_lists_own(run: Run) -> None:
    todo, end = List(), Label()
    todo.call("getpid", then=end)
    todo.call("exit_group", 1)
    todo.label(end)
    todo.call("exit_group", 4)
    assert run(todo) == ([], 4)


def test_results_are_arguments(run: Run, tmp_path: Path) -> None:
    todo = List()
    directory, file = todo.room(8), todo.room(8)
    text = b"written by a list\n"
    todo.call("openat", AT_FDCWD, str(tmp_path), os.O_PATH | os.O_DIRECTORY, result=directory)
    todo.call("openat", Value(directory), "note", os.O_CREAT | os.O_WRONLY, 0o600, result=file)
    todo.call("write", Value(file), text, len(text))
    todo.call("close", Value(file))
    todo.call("fchdir", Value(directory))
    todo.call("openat", AT_FDCWD, "note", os.O_RDONLY)
    todo.call("exit_group", 0)
    assert run(todo) == ([], 0)
    assert (tmp_path / "note").read_bytes() == text


def test_a_child_of_vfork_goes_its_own_way(run: Run) -> None:
    todo, child, parent = List(), Label(), Label()
    pid, status = todo.room(8), todo.room(8)
    todo.call("clone", VFORK, result=pid, forks=True, jump=child, then=parent)
    todo.label(child)
    todo.call("exit_group", 5)
    todo.label(parent)
    todo.call("wait4", Value(pid), status, 0, 0)
    todo.call("write", REPORT, status, 8)
    todo.call("exit_group", 0)
    assert run(todo) == ([(5 << 8, 0)], 0)


def test_programs_are_executed_with_their_arguments_and_nothing_else(run: Run) -> None:
    inherited = os.dup(2)
    os.set_inheritable(inherited, True)
    ready, stdout = os.pipe2(os.O_CLOEXEC)
    todo = List()
    todo.call("close_range", 3, 0xFFFFFFFF, 0)
    script = "echo $0 $1 $X; ls /proc/self/fd | wc -l"
    argv = todo.pointers(["/bin/sh", "-c", script, "a b", "c"])
    todo.call("execve", "/bin/sh", argv, todo.pointers(["X=y", "PATH=/bin:/usr/bin"]))
    try:
        assert run(todo, stdout=stdout) == ([], 0)
    finally:
        os.close(stdout)
        os.close(inherited)
    with open(ready, encoding="ascii") as file:
        assert file.read().splitlines() == ["a b c y", "4"]  # ls has the directory open


def test_it_starts_with_no_descriptor_but_its_own(run: Run) -> None:
    inherited = os.dup(2)
    os.set_inheritable(inherited, True)
    todo = List()
    todo.call("fcntl", inherited, 1, tolerate=errno.EBADF, jump=(closed := Label()))
    todo.call("exit_group", 1)
    todo.label(closed)
    todo.call("exit_group", 6)
    try:
        assert run(todo) == ([], 6)
    finally:
        os.close(inherited)


def test_long_lists_are_read_whole(run: Run) -> None:
    todo = List()
    for _ in range(2000):
        todo.call("getpid")
    todo.string("x" * 100_000)
    report_pid(todo)
    todo.call("exit_group", 0)
    pairs, code = run(todo)
    assert len(pairs) == 1
    assert code == 0


def test_what_cannot_be_assembled_is_refused() -> None:
    with pytest.raises(ValueError, match="null byte"):
        List().call("chroot", "a\0b")
    astray = List()
    astray.call("getpid", then=Label())
    with pytest.raises(ValueError, match="not in the list"):
        astray.finish()
    long = List()
    long.string("x" * assemble.SIZE)
    with pytest.raises(OSError, match="too long"):
        long.finish()
    with pytest.raises(OSError, match="vax"):
        List("vax")


def test_a_second_list_follows_the_first(run: Run) -> None:
    """As init's does: it lies behind, and its records know their numbers."""
    start = 512
    behind = List(first=start)
    behind.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY)
    todo, there = List(), Label()
    there.number = start
    data = behind.finish()
    address = assemble.LIST + start * assemble.RECORD
    pipe = todo.room(8)
    todo.call(
        "openat",
        AT_FDCWD,
        f"/proc/{os.getpid()}/fd/{(fd := machine.readable(data))}",
        os.O_RDONLY,
        result=pipe,
    )
    todo.call("read", Value(pipe), address, assemble.SIZE - start * assemble.RECORD, then=there)
    try:
        assert run(todo) == ([(start, errno.ENOENT)], 1)
    finally:
        os.close(fd)


def test_the_program_cannot_be_changed(native: machine.Machine) -> None:
    fd = os.open(f"/proc/self/fd/{native.program}", os.O_RDWR | os.O_CLOEXEC)
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_a_spawn_that_fails_says_why(native: machine.Machine) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        native.spawn((0,), name="gantry-test", flags=0x10000)  # CLONE_THREAD without what belongs to it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert before == set()


# -- the other machine ----------------------------------------------------------------------------------------


@pytest.fixture
def emulate(tmp_path: Path) -> Callable[[List], tuple[list[tuple[int, int]], int]]:
    """Execute a list of aarch64's."""
    if QEMU is None:
        pytest.skip("needs qemu-user-static")
    program = tmp_path / "program"
    program.write_bytes(assemble.program("aarch64"))
    program.chmod(0o755)

    def go(todo: List) -> tuple[list[tuple[int, int]], int]:
        source = machine.readable(todo.finish())
        ready, report = os.pipe2(os.O_CLOEXEC)
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, report, 104), (os.POSIX_SPAWN_DUP2, source, 103)]
        actions += [(os.POSIX_SPAWN_DUP2, 103, 3), (os.POSIX_SPAWN_DUP2, 104, 4)]
        pid = os.posix_spawn(str(QEMU), [str(QEMU), str(program)], {}, file_actions=actions)
        os.close(source)
        os.close(report)
        with open(ready, "rb") as file:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return _pairs(file.read()), code

    return go


def test_aarch64_results_and_jumps(emulate: Any, tmp_path: Path) -> None:
    todo, there, end = List("aarch64"), Label(), Label()
    file = todo.room(8)
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=errno.ENOENT, jump=there)
    todo.call("exit_group", 1)
    todo.label(there)
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=ANY)
    todo.call("openat", AT_FDCWD, f"{tmp_path}/note", os.O_CREAT | os.O_WRONLY, 0o600, result=file)
    todo.call("write", Value(file), "hello", 5, then=end)
    todo.call("exit_group", 2)
    todo.label(end)
    report_pid(todo)
    todo.call("exit_group", 3)
    ((pid, zero),), code = emulate(todo)
    assert (zero, code) == (0, 3)
    assert pid > 0
    assert (tmp_path / "note").read_text() == "hello"


def test_aarch64_failures_are_reported(emulate: Any) -> None:
    todo = List("aarch64")
    todo.call("getpid")
    todo.call("openat", AT_FDCWD, "/nowhere", os.O_RDONLY, tolerate=errno.EPERM)
    assert emulate(todo) == ([(1, errno.ENOENT)], 1)


def test_aarch64_children(emulate: Any) -> None:
    todo, child, parent = List("aarch64"), Label(), Label()
    pid, status = todo.room(8), todo.room(8)
    todo.call("clone", VFORK, result=pid, forks=True, jump=child, then=parent)
    todo.label(child)
    todo.call("exit_group", 5)
    todo.label(parent)
    todo.call("wait4", Value(pid), status, 0, 0)
    todo.call("write", REPORT, status, 8)
    todo.call("exit_group", 0)
    assert emulate(todo) == ([(5 << 8, 0)], 0)


@pytest.mark.parametrize(("path", "code"), [("/", 0), ("/nowhere", 256 - errno.ENOENT)])
def test_aarch64_the_function_returns(tmp_path: Path, path: str, code: int) -> None:
    """In a program that calls it and exits with its result."""
    if QEMU is None:
        pytest.skip("needs qemu-user-static")
    todo = List("aarch64")
    todo.call("openat", AT_FDCWD, path, os.O_RDONLY)
    todo.call("end")
    # mov x0, LIST; bl FUNCTION; mov x8, exit_group; svc
    start = struct.pack("<4I", 0xD2A40000, 0x94000003, 0xD2800BC8, 0xD4000001) + aarch64.FUNCTION
    code_at, data = 64 + 2 * 56, todo.finish()
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, aarch64.MACHINE, 1, 0x10000000 + code_at, 64,
        *(0, 0, 64, 56, 2, 0, 0, 0),
    )  # fmt: skip
    at = 0x10000
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, *[0x10000000] * 2, *[code_at + len(start)] * 2, at)
    segments += struct.pack("<IIQQQQQQ", 1, 6, at, *[assemble.LIST] * 2, *[len(data)] * 2, at)
    program = tmp_path / "program"
    program.write_bytes((header + segments + start).ljust(at, b"\0") + data)
    program.chmod(0o755)
    assert subprocess.run([QEMU, program], check=False).returncode == code


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize(("name", "module"), [("x86_64", x86_64), ("aarch64", aarch64)])
def test_numbers_are_the_kernel_s(name: str, module: Any) -> None:
    if not HEADERS[name].exists():
        pytest.skip("needs linux-libc-dev")
    defined = dict(
        re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[name].read_text(), re.MULTILINE)
    )
    numbers = {**module.NUMBERS, **assemble.SAME}
    if name == "aarch64":
        assert numbers.pop("dup2") == numbers["dup3"]
        defined["newfstatat"] = defined["fstatat"]  # its name where long is 64 bits
    assert numbers == {call: int(defined[call]) for call in numbers}


def test_aarch64_is_known_as_elf(tmp_path: Path) -> None:
    for name, word in (("aarch64", "AArch64"), ("x86_64", "X86-64")):
        (tmp_path / name).write_bytes(assemble.program(name))
        readelf = shutil.which("readelf")
        if readelf is None:
            pytest.skip("needs binutils")
        shown = subprocess.run(
            [readelf, "-hl", tmp_path / name], capture_output=True, text=True, check=True
        ).stdout
        assert word in shown
        assert "EXEC" in shown
        assert "RWE" not in shown
