"""Starts the virtual machines of pods: flavor kvm's `run_pod` (executor/pods/ports.py, RunPod).

What every machine needs (the kernel, the first root, whether KVM works) is found when the first one is started.
"""

import asyncio
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from executor.kvm import commands, equipment, machine, shares
from executor.kvm.changes import Changes
from executor.kvm.console import Console
from executor.kvm.equipment import Equipment
from executor.kvm.guest.main import SHARE
from executor.kvm.kernel import KernelError
from executor.kvm.machine import FILES, KVM, PLACES, VM, MachineError, Size
from executor.kvm.probe import ProbeError
from executor.kvm.qmp import Qmp, QmpError
from executor.kvm.runtime import RuntimeFailure
from executor.kvm.sandbox import Guest, KvmSandbox
from executor.kvm.stream import StreamError
from executor.kvm.template import LIMIT, USUAL, Template, Templates
from executor.kvm.wire import Wire
from executor.network import taps
from executor.network.taps import Link
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.ports import RunPod, Sandbox
from executor.stage1 import manifest
from executor.stage1.manifest import ManifestError
from executor.stage1.podfiles import memory_volume

log = logging.getLogger(__name__)

BOOT_SECONDS: Final = 180.0
"""An emulated machine on a busy host takes its time."""
EXIT_SECONDS: Final = 1.0
CALM_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 60.0
IDLE_LOAD: Final = 0.25
"""Of the host, for each of its processors."""
METADATA_URL: Final = "metadata-url"
"""What stage1 puts into AC_METADATA_URL (docs/stage1-interface.md)."""
_SEED_BYTES: Final = 64
_LIMITS: Final = ("core", "memlock", "msgqueue", "nofile", "nproc", "sigpending", "stack")
_OPEN_FILES: Final = (
    1 << 20
)  # fs.nr_open, unless somebody changes it (Documentation/admin-guide/sysctl/fs.rst)
_ETC: Final = ("hosts", "hostname", "resolv.conf")


class Machines:
    """All virtual machines of this executor. run: starts the pods on the host that they run in.

    templates: the disk that templates may take, which machines go on from where that is faster; 0: they boot. at_once:
    the first one waits until there is one.
    """

    def __init__(
        self,
        run: RunPod,
        state_dir: Path,
        given_kernel: Path | None = None,
        *,
        templates: int = LIMIT,
        at_once: bool = False,
    ) -> None:
        self._run = run
        self._directory = state_dir / "kvm"
        self._kernel = given_kernel
        self._equipment: Equipment | None = None
        self._preparing = asyncio.Lock()
        self._templates: Templates | None = None
        if templates:
            self._templates = Templates(run, self._directory / "templates", templates, at_once=at_once)
        self._making: asyncio.Task[None] | None = None
        self._starting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Awaitable[Sandbox]:
        """A RunPod for every pod: in a machine if it is of this flavor, else as the host runs pods."""
        text = (pod_dir / "pod").read_bytes()
        ours = f'"{KVM}"'.encode() in text and machine.flavor(json.loads(text)) == KVM
        return (self.run_pod if ours else self._run)(pod_dir, on_exit, on_gone)

    async def equipment(self) -> Equipment:
        """Found and made the first time. Raises LaunchError that says what is missing and how to get it."""
        async with self._preparing:
            if self._equipment is None:
                try:
                    self._equipment = await asyncio.to_thread(equipment.find, self._directory, self._kernel)
                except (ProbeError, KernelError, RuntimeFailure) as error:
                    raise LaunchError(str(error)) from None
                except OSError as error:
                    raise LaunchError(f"flavor kvm: {error}") from None
                how = self._equipment.how
                log.info("virtual machines run with %s%s", how.name, f": {how.why}" if how.why else "")
            return self._equipment

    async def ahead(self, *, expected: bool = False) -> None:
        """Make the templates that were used lately and fit no more, when nothing else is to be done; where none were,
        the usual ones, when the whole host has had nothing to do for some time. expected: there will be machines."""
        if self._templates is None:
            return
        wanted = self._templates.lately()
        if not wanted:
            if not expected:
                await _idle_host()
            cpus = os.cpu_count() or 1
            wanted = [number for number in USUAL if number < 2 * cpus]
        await self._calm()
        try:
            found = await self.equipment()
        except LaunchError as error:
            log.info("no templates of virtual machines are made: %s", error)
            return
        for number in wanted:
            self._templates.want(found, number)
        await self.settle()

    async def settle(self) -> None:
        """Until all templates that were asked for are made, or cannot be."""
        if self._templates is None:
            return
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._templates.make_wanted(self._calm))
        await asyncio.wait([self._making])

    async def _calm(self) -> None:
        """When no machine is being started, and was not a moment ago."""
        while True:
            await self._idle.wait()
            await asyncio.sleep(CALM_SECONDS)
            if not self._starting:
                return

    async def run_pod(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> KvmSandbox:
        """As RunPod says. Returns when the guest's launcher has made the pod."""
        found = await self.equipment()
        template = None
        self._starting += 1
        self._idle.clear()
        try:
            pod = json.loads((pod_dir / "pod").read_text())
            machine.check(pod)
            wanted = machine.size(pod, os.cpu_count() or 1)
            if self._templates is not None:
                template = await self._templates.get(found, wanted)
            directory = self._lay_out(pod_dir, pod, found, wanted, template=template is not None)
            starting = _Start(self, pod_dir, pod, wanted, template, on_gone)
            starting.host = await self._run(directory, starting.on_host_exit, starting.on_host_gone)
            # Whoever gives pods a network has done so by now.
            return await starting.boot(on_exit)
        except (MachineError, ManifestError) as error:
            raise LaunchError(str(error)) from None
        except OSError as error:
            raise LaunchError(f"prepare the machine of {pod_dir}: {error}") from None
        finally:
            self._starting -= 1
            if not self._starting:
                self._idle.set()
            if template is not None:
                template.close()
            if self._templates is not None and self._templates.wanted:
                self.spawn(self.settle())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lay_out(
        self, pod_dir: Path, pod: dict[str, Any], found: Equipment, wanted: Size, *, template: bool
    ) -> Path:
        """The directory of the pod that the machine is on the host, below the pod's own. Its name is the pod's."""
        layers = {
            app["name"]: (pod_dir / "appsinfo" / app["name"] / "lower").read_text().splitlines()
            for app in pod["apps"]
        }
        directory = pod_dir / "machine" / pod_dir.name
        asked = manifest.read(json.dumps(machine.guest_manifest(pod, {})))  # what the guest would say, sooner
        machine.make_places(pod_dir, pod)
        how = found.how
        on_host = machine.host_manifest(
            *(pod, layers, found.tools, found.boot, how, wanted),
            str(pod_dir),
            str(directory),
            template=template,
            users=machine.users_on_host(pod, asked.highest_id),
        )
        for app in (FILES, VM):
            (directory / "appsinfo" / app).mkdir(parents=True)
            (directory / "appsinfo" / app / "lower").write_text(f"{found.system}\n")
        for name in () if pod["apps"] else PLACES:
            (directory / name).mkdir()
        for path in map(Path, machine.device_files(how)):
            machine.make_device(directory / path.name, path)
        (directory / "pod").write_text(json.dumps(on_host))
        return directory


class _Start:
    """One machine, from its start to its end."""

    def __init__(
        self,
        machines: Machines,
        pod_dir: Path,
        pod: dict[str, Any],
        size: Size,
        template: Template | None,
        on_gone: Callable[[str], None],
    ) -> None:
        self._size = size
        self._machines = machines
        self._pod_dir = pod_dir
        self._pod = pod
        self._template = template
        self._on_gone = on_gone
        self._exit: AppExit | None = None
        self._files = -1  # virtiofsd's pid
        self.guest = Guest()
        self.console = Console()
        self.host: Sandbox

    async def boot(self, on_exit: Callable[[AppExit], None]) -> KvmSandbox:
        """Start virtiofsd, QEMU, and the pod in the guest. Raises LaunchError, OSError; nothing of it stays then."""
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                return await self._boot(on_exit)
        except TimeoutError:
            late = f"the machine was not ready after {BOOT_SECONDS:.0f} s{self.console.last()}"
            await self._give_up(distrust=True)
            raise LaunchError(late) from None
        except BaseException:
            await self._give_up(distrust=self._exit is not None)
            raise

    async def _boot(self, on_exit: Callable[[AppExit], None]) -> KvmSandbox:
        links = await self._take_network()
        await self._start_programs()
        await self.guest.ready
        if self._template is not None:
            await self._grow(self._template)
        self.guest.sockets = shares.sockets(self._pod)
        sandbox = KvmSandbox(self.guest, self.host, self._pod_dir, on_exit, self._on_gone)
        files = {
            **_manifests(self._pod),
            **{name: text for name in (METADATA_URL,) if (text := _read(self._pod_dir / name))},
            **{f"etc/{name}": text for name in _ETC if (text := _read(self._pod_dir / "etc" / name))},
        }
        if "etc/resolv.conf" not in files:
            files["etc/resolv.conf"] = _read(Path("/etc/resolv.conf"))
        await self.guest.call(
            "run",
            str(self._pod_dir),
            name=self._pod_dir.name,
            files=files,
            time=time.time(),
            seed=os.urandom(_SEED_BYTES).hex(),
            network=machine.network_of_guest(links),
            datagrams=list(self.guest.sockets),
            overlays=machine.OVERLAYS,
        )
        self.guest.on_lost = self._on_lost
        if not self._pod["apps"]:
            directory = self._pod_dir / "machine" / self._pod_dir.name
            sandbox.take_apps(Changes(self._pod_dir, directory, self._size, self._files), _manifests)
        sandbox.watch()
        return sandbox

    async def _take_network(self) -> tuple[Link, ...]:
        """What interfaces the network namespace on the host has are the machine's. Raises LaunchError, OSError."""
        told = memory_volume(self.host.pid, commands.TOLD)
        try:
            links = await asyncio.to_thread(taps.attach, self.host.pid, os.stat(told).st_uid)
        except taps.NetworkError as error:
            raise LaunchError(str(error)) from None
        if len(links) > commands.CARDS:
            raise LaunchError(
                f"a virtual machine has at most {commands.CARDS} network cards, the pod {len(links)}"
            )
        fd = os.open(f"{told}/{commands.DEVICES}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="ascii") as file:  # noqa: ASYNC230 - in memory
            file.write(commands.network_devices(links))
        return links

    async def _start_programs(self) -> None:
        ours, theirs = socket.socketpair()
        listening, files = await asyncio.to_thread(_connected)
        console = self.console.open()
        try:
            self.guest.wire = await Wire.open(ours, self.guest.on_message, self._on_wire_lost)
            self._files = await self.host.start_app(
                FILES, stdin=listening.fileno(), stdout=console, stderr=console
            )
            if self._template is None:
                await self.host.start_app(VM, stdin=theirs.fileno(), stdout=files.fileno(), stderr=console)
            else:
                await self._go_on(self._template, theirs, files, console)
        finally:
            for sock in (theirs, listening, files):
                sock.close()
            os.close(console)

    async def _go_on(
        self, template: Template, wire: socket.socket, files: socket.socket, console: int
    ) -> None:
        ours, theirs = socket.socketpair()
        qmp = Qmp(ours)
        try:
            with theirs:
                pipe, pouring = template.pour(self._size.memory)
                try:
                    await self.host.start_app(VM, stdin=theirs.fileno(), stdout=pipe, stderr=console)
                finally:
                    os.close(pipe)
                    self._machines.spawn(pouring)  # where nothing reads it ends at once
            await qmp.open()
            await qmp.running()
            await qmp.connect("files", files)
            await qmp.execute("device_add", commands.SHARE_DEVICE)
            await qmp.connect("wire", wire)
            await qmp.execute("device_add", commands.WIRE_DEVICE)
        except (QmpError, StreamError) as error:
            template.distrust()
            raise LaunchError(
                f"the machine does not go on from its template: {error}{self.console.last()}"
            ) from None
        finally:
            qmp.close()

    async def _grow(self, template: Template) -> None:
        size = self._size
        try:
            await self.guest.call(
                "grow", str(self._pod_dir), memory=size.memory, had=size.template.memory, cpus=size.cpus
            )
        except LaunchError:
            template.distrust()
            raise

    async def _give_up(self, *, distrust: bool) -> None:
        """It has not come to a pod: nothing of it stays. distrust: it may have gone on from a bad template."""
        ready = self.guest.ready
        if distrust and self._template is not None and not (ready.done() and ready.exception() is None):
            self._template.distrust()
        self._on_gone = lambda _: None
        self.guest.on_lost = lambda _: None
        if self.guest.wire is not None:
            self.guest.wire.close("the machine did not start")
        await self.host.stop()
        self.console.close()

    def on_host_exit(self, ended: AppExit) -> None:
        """QEMU or virtiofsd has ended: that is the end of the machine."""
        if self._exit is None or ended.app == VM:
            self._exit = ended
        self.guest.lost(f"the machine has ended: {machine.how_ended(ended)}{self.console.last()}")

    def on_host_gone(self, reason: str) -> None:
        """The whole pod on the host."""
        self.guest.lost(f"the machine has ended: {reason}")

    def _on_wire_lost(self, reason: str) -> None:
        """QEMU has let go of it. What it ended with, which is about to be told, says more."""

        def tell() -> None:
            self.guest.lost(f"{reason}{self.console.last()}")

        asyncio.get_running_loop().call_later(EXIT_SECONDS, tell)

    def _on_lost(self, reason: str) -> None:
        self._machines.spawn(self._bury(reason))

    async def _bury(self, reason: str) -> None:
        """Everything is dead before anybody is told."""
        try:
            await self.host.stop()
        except LaunchError as error:
            log.info("pod %s: %s", self._pod_dir.name, error)  # the launcher is ending, and all with it
        self.console.close()
        if self._exit is not None and self._exit.oom_killed:
            reason = "the machine was killed: it took more memory than the pod may have"
        self._on_gone(reason)


async def _idle_host() -> None:
    """When it has had little to do for a minute, first after one."""
    while True:
        await asyncio.sleep(IDLE_SECONDS)
        if os.getloadavg()[0] < IDLE_LOAD * (os.cpu_count() or 1):
            return


def _manifests(pod: Mapping[str, Any]) -> dict[str, str]:
    """What the guest's launcher reads of a pod and its apps."""
    lowers = {f"appsinfo/{app['name']}/lower": f"{SHARE}/images/{app['name']}/.\n" for app in pod["apps"]}
    return {"pod": json.dumps(machine.guest_manifest(pod, _limits())), **lowers}


def _limits() -> dict[str, tuple[int, int]]:
    """What apps inherit from the executor, in a machine, too; of open files not more than a kernel gives to anybody."""
    found = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in _LIMITS}
    soft, hard = (_OPEN_FILES if one < 0 else min(one, _OPEN_FILES) for one in found["nofile"])
    return {**found, "nofile": (soft, hard)}


def _connected() -> tuple[socket.socket, socket.socket]:
    """A listening socket without a place in the file system, and a connection to it, which waits to be accepted."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")  # a name that the kernel chooses (unix(7), autobind)
    listening.listen(1)
    files = socket.socket(socket.AF_UNIX)
    files.connect(listening.getsockname())
    return listening, files


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
