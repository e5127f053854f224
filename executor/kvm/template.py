"""Machines that have booted once, so that others need not: each goes on where its template was written to a file.

A template is a machine without a pod, and without devices but a console, in which everything is done that can be done
before a pod is known: the kernel has booted, the launcher waits. It holds nothing of any pod. Machines that go on from
it get a clock, and random numbers, of their own (executor/kvm/guest/waking.py), and as much memory as they are to have:
a template has little. So one does for all that have one cpu, and one for those with two, three and four, five to eight…

Templates are made aside: a machine that has none boots, and only then, when nothing is being started and with what
processors and memory nobody else wants, is one made, for the next. Those of a former boot of the host are good for as
long as that takes; those of a former version fit no more. Both are made anew when the executor starts, if they were
used lately; where none were, the most usual are made when the host has had nothing to do for a while.

Only for emulated machines, which boot slowly. Where a template cannot be made, or used, machines boot.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from executor.kvm import commands, machine, stream
from executor.kvm.console import Console
from executor.kvm.equipment import Equipment
from executor.kvm.guest import waking
from executor.kvm.machine import VM, Size
from executor.kvm.qmp import Qmp, QmpError
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.ports import RunPod, Sandbox

log = logging.getLogger(__name__)

LIMIT: Final = 1 << 30
"""Bytes that they may take, of which each takes about 90 MB; those that were used least make room."""
USUAL: Final = (1, 2, 4)
"""Numbers of cpus for which there are templates before any machine was started."""
_LATELY_SECONDS: Final = 7 * 86_400.0
_SECONDS: Final = 180.0
_ASIDE_SECONDS: Final = 1800.0
_WRITTEN_SECONDS: Final = 0.02
_AGAIN_SECONDS: Final = 600.0
_OLD_SECONDS: Final = 3600.0
_USUAL_SIZE: Final = 110_000_000
_PIPE: Final = 1 << 20
_SUFFIX: Final = ".template"
_LOCK: Final = "lock"
_LOCK_SECONDS: Final = 2.0
_NAME: Final = re.compile(r"(?P<boot>[^.]+)\.(?P<key>[0-9a-f]+)\.(?P<cpus>\d+)\.(?P<khz>\d+)\.template")
_SAME_SPEED: Final = 5000
"""The speed of the host's counter, which is measured at each boot, may be another by so small a part of it."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Templates:
    """Those in a directory, which executors share. run: starts the pods on the host that machines run in.

    limit: bytes of disk. at_once: whoever is the first to want one waits until it is made.
    """

    def __init__(self, run: RunPod, directory: Path, limit: int = LIMIT, *, at_once: bool = False) -> None:
        self._run = run
        self._directory = directory
        self._limit = limit
        self._at_once = at_once
        self._making: dict[Path, asyncio.Task[bool]] = {}
        self._unusable: dict[Path, float] = {}  # until when
        self._wanted: dict[Path, tuple[Equipment, Size]] = {}

    async def get(self, equipment: Equipment, wanted: Size) -> "Template | None":
        """One that a machine of this size can go on from; None: boot. Raises nothing."""
        if equipment.how.name != "tcg":
            return None
        wanted = wanted.template
        path = self._path(equipment, wanted)
        if time.monotonic() < self._unusable.get(path, 0.0):
            return None
        try:
            return Template(path, self._unusable)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("virtual machines boot, for %s cannot be read: %s", path, error)
            return None
        if not self._at_once:
            self._wanted[path] = equipment, wanted
            return self._of_former_boot(path)
        made = self._making.get(path)
        if made is None:
            made = self._making[path] = asyncio.create_task(self._make(path, equipment, wanted))
            made.add_done_callback(lambda _: self._making.pop(path, None))
        try:
            return Template(path, self._unusable) if await asyncio.shield(made) else None
        except OSError:
            return None  # it was removed at once: they may take little disk

    def _of_former_boot(self, path: Path) -> "Template | None":
        """Instead of the one that is to be made."""
        now = _NAME.fullmatch(path.name)
        for other in self._directory.glob(f"*{_SUFFIX}"):
            name = _NAME.fullmatch(other.name)
            if now is None or name is None or any(name[word] != now[word] for word in ("key", "cpus")):
                continue
            if abs(int(name["khz"]) - int(now["khz"])) <= int(now["khz"]) // _SAME_SPEED:
                with contextlib.suppress(OSError):  # it is just being removed
                    return Template(other, self._unusable)
        return None

    def lately(self) -> list[int]:
        """How many cpus those have that were used, whether or not they still fit; the last one first."""
        found: dict[int, float] = {}
        try:
            for path in self._directory.glob(f"*{_SUFFIX}"):
                name, used = _NAME.fullmatch(path.name), path.stat().st_mtime
                if name is not None and used > time.time() - _LATELY_SECONDS:
                    cpus = int(name["cpus"])
                    found[cpus] = max(used, found.get(cpus, 0.0))
        except OSError:
            return []
        return sorted(found, key=lambda cpus: found[cpus], reverse=True)

    def want(self, equipment: Equipment, cpus: int) -> None:
        """There is to be one, if there can be."""
        wanted = Size(0, cpus, None, 0).template
        path = self._path(equipment, wanted)
        if equipment.how.name == "tcg" and not path.exists():
            self._wanted[path] = equipment, wanted

    @property
    def wanted(self) -> bool:
        """Whether some are to be made."""
        return bool(self._wanted)

    async def make_wanted(self, calm: Callable[[], Awaitable[None]]) -> None:
        """All that were asked for and are not there, one by one. calm: returns when nobody is in a hurry."""
        while self._wanted:
            await calm()
            path, (equipment, wanted) = next(iter(self._wanted.items()))
            try:
                lock = self._lock()
            except OSError as error:
                log.warning("no templates of virtual machines can be made: %s", error)
                self._wanted.clear()
                return
            if lock is None:
                await asyncio.sleep(_LOCK_SECONDS)
                continue
            try:
                del self._wanted[path]
                if not path.exists() and time.monotonic() >= self._unusable.get(path, 0.0):
                    await self._make(path, equipment, wanted)
            finally:
                os.close(lock)

    def _lock(self) -> int | None:
        """Nobody else makes one aside until it is closed; None: somebody does."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _path(self, equipment: Equipment, wanted: Size) -> Path:
        words = (_boot_id(), _key(equipment), wanted.cpus, equipment.how.khz)
        return self._directory / f"{'.'.join(map(str, words))}{_SUFFIX}"

    async def _make(self, path: Path, equipment: Equipment, wanted: Size) -> bool:
        began = time.monotonic()
        place = self._directory / f"making-{uuid.uuid4()}"
        try:
            await asyncio.to_thread(self._tidy, path)
            place.mkdir(mode=0o700, parents=True)
            with tempfile.TemporaryFile(dir=place) as file:
                async with asyncio.timeout(_SECONDS if self._at_once else _ASIDE_SECONDS):
                    boot = _Boot(self._run, place / place.name, equipment, wanted, aside=not self._at_once)
                    await boot.write(file.fileno())
                await asyncio.to_thread(_write_lean, file.fileno(), place / "lean")
            os.rename(place / "lean", path)
        except (LaunchError, QmpError, stream.StreamError, OSError, TimeoutError) as error:
            self._unusable[path] = time.monotonic() + _AGAIN_SECONDS
            log.warning(
                "virtual machines with up to %d cpus boot, for no template can be made: %s",
                wanted.cpus,
                str(error) or "it takes too long",
            )
            return False
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        log.info(
            "a template for machines with up to %d cpus was made in %.1f s",
            wanted.cpus,
            time.monotonic() - began,
        )
        return True

    def _tidy(self, coming: Path) -> None:
        """What fits no more, or was used least, goes; and what executors that were killed have left."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = {
            path: path.stat() for path in self._directory.iterdir() if path.name not in (coming.name, _LOCK)
        }
        templates = [path for path in found if path.suffix == _SUFFIX]
        free = self._limit - _USUAL_SIZE
        for path in sorted(templates, key=lambda path: found[path].st_mtime, reverse=True):
            lately = found[path].st_mtime > time.time() - _LATELY_SECONDS
            if not _is_good_beside(coming, path, lately=lately) or found[path].st_size > free:
                path.unlink(missing_ok=True)
            else:
                free -= found[path].st_size
        for path, info in found.items():
            if path.suffix != _SUFFIX and info.st_mtime < time.time() - _OLD_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


class Template:
    """One to go on from, open: nobody minds when its file is removed meanwhile. Raises OSError."""

    def __init__(self, path: Path, unusable: dict[Path, float]) -> None:
        self._path = path
        self._unusable = unusable
        os.utime(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pour(self, memory: int) -> tuple[int, Coroutine[Any, Any, None]]:
        """A pipe, from which a machine that has so much memory goes on, the caller's to close; and what writes to it
        until the machine has all, or has ended. Raises StreamError, OSError."""
        # Not later: for something in a pipe in which never is anything QEMU 7.2 waits for ever.
        head, at = stream.resized(os.pread(self._fd, stream.HEAD, 0), memory)
        source = os.dup(self._fd)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the wider the faster, no more
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        return reader, self._pour(head, source, at, writer)

    async def _pour(self, head: bytes, source: int, at: int, writer: int) -> None:
        try:
            await asyncio.to_thread(stream.pour, head, source, at, writer)
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error)

    def distrust(self) -> None:
        """A machine did not go on from it. The next ones boot; later it is made anew."""
        self._unusable[self._path] = time.monotonic() + _AGAIN_SECONDS
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Boot:
    """A machine that becomes a template, as a pod on the host in a directory of its own."""

    def __init__(
        self, run: RunPod, directory: Path, equipment: Equipment, wanted: Size, *, aside: bool
    ) -> None:
        """aside: with what nobody else wants."""
        self._aside = aside
        self._run = run
        self._directory = directory
        self._equipment = equipment
        self._wanted = wanted
        self._console = Console()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def write(self, fd: int) -> None:
        """Boot, and write it to a file. Raises LaunchError, QmpError, OSError."""
        asked = self._equipment
        manifest = machine.template_manifest(
            asked.tools, asked.boot, asked.how, self._wanted, aside=self._aside
        )
        (self._directory / "appsinfo" / VM).mkdir(parents=True)
        (self._directory / "appsinfo" / VM / "lower").write_text(f"{asked.system}\n")
        (self._directory / "pod").write_text(json.dumps(manifest))
        sandbox = await self._run(self._directory, self._on_exit, self._on_gone)
        try:
            await self._write(sandbox, fd)
        finally:
            with contextlib.suppress(LaunchError):  # the launcher has ended, and all with it
                await sandbox.stop()
            self._console.close()

    async def _write(self, sandbox: Sandbox, fd: int) -> None:
        ours, theirs = socket.socketpair()
        qmp = Qmp(ours)
        console = self._console.open()
        try:
            await sandbox.start_app(VM, stdin=theirs.fileno(), stdout=console, stderr=console)
        finally:
            os.close(console)
            theirs.close()
        try:
            ready = asyncio.ensure_future(self._console.said(waking.READY))
            await asyncio.wait((ready, self._ended), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if self._ended.done():
                raise LaunchError(f"the machine has ended: {self._ended.result()}{self._console.last()}")
            await qmp.open()
            # All at once: nothing else is to be done meanwhile.
            await qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40, "downtime-limit": 60_000})
            await qmp.execute("getfd", {"fdname": "stream"}, fd=fd)
            await qmp.execute("migrate", {"uri": "fd:stream"})
            while (state := await qmp.execute("query-migrate"))["status"] != "completed":
                if state["status"] in ("failed", "cancelled"):
                    raise QmpError(f"migrate: {state.get('error-desc', state['status'])}")
                await asyncio.sleep(_WRITTEN_SECONDS)
        finally:
            qmp.close()

    def _on_exit(self, ended: AppExit) -> None:
        self._end(machine.how_ended(ended))

    def _on_gone(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)


def _is_good_beside(coming: Path, path: Path, *, lately: bool) -> bool:
    """Of this boot of the host, or of a former one but of this version, and used lately, until there is a new one."""
    new, name = _NAME.fullmatch(coming.name), _NAME.fullmatch(path.name)
    if new is None or name is None:
        return False
    return name["boot"] == new["boot"] or (
        lately and name["key"] == new["key"] and name["cpus"] != new["cpus"]
    )


def _key(equipment: Equipment) -> str:
    """Of all that a machine and its template must have in common, beside the number of cpus, and the speed of the
    host's counter."""
    wanted = Size(0, 1, None, 0).template
    tools, boot, how = equipment.tools, equipment.boot, replace(equipment.how, khz=1)
    info = tools.qemu.stat()
    facts = [f"{info.st_size} {info.st_mtime_ns}", str(boot.root)]
    facts += commands.template(tools, boot, how, wanted)
    facts += commands.going_on(tools, how, wanted)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _write_lean(fd: int, path: Path) -> None:
    """Raises StreamError, OSError."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    with path.open("xb") as file:
        path.chmod(0o600)
        for part in stream.lean(memoryview(data)):
            file.write(part)
