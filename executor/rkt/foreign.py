"""Pods that a stage1 image of somebody else's runs, by rkt's contract (executor/contract), in the foreground.

    prepare: the image is found and held; stage1/{id,name} say which it is
    run: the manifest becomes one that knows nothing of us; `run` gets our streams, as if it were executed in our place
    enter, stop: its entrypoints; rm, gc: its `gc` before the pod's directory goes (`dispose`)

The pod ends as `run` does, or as the first app that failed; a network is the stage1's own to make, from --net.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from executor.contract import disposal
from executor.contract.client import new_terminal
from executor.contract.immutable import Immutable
from executor.contract.interface import ROOTFS, ContractError, Stage1
from executor.contract.interface import Run as RunArguments
from executor.contract.manifest import convert
from executor.contract.sandbox import ForeignSandbox, Job, Patience
from executor.contract.stages import rewrite
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.poddir import Phase
from executor.pods.ports import Sandbox
from executor.rkt import measured, metadata, stage1
from executor.rkt.appstreams import AppStreams, modes_of
from executor.rkt.common import Globals
from executor.rkt.control import Session
from executor.rkt.flags import Failure
from executor.rkt.foreground import Foreground, Run
from executor.rkt.podflags import PodFlags, sockets
from executor.rkt.podmanifest import settle
from executor.rkt.pods import STAGE1_ID, STATUS
from executor.rkt.prepare import Making
from executor.rkt.stage1 import FOREIGN, Choice, Place
from executor.stage1 import cgroups

_ALL: Final = {"stdin": "null", "stdout": "log", "stderr": "log"}
_NOTHING: Final = {"stdin": "null", "stdout": "null", "stderr": "null"}


async def prepare(g: Globals, choice: Choice, making: Making, *, mutable: bool = False) -> None:
    """Find the image and write down which it is. Failure."""
    image, store = await stage1.find(g, choice)
    known = stage1.read(g, image, mutable=mutable)
    making.holds.callback(store.hold(image).close)
    directory = making.pod.path / "stage1"
    directory.mkdir(exist_ok=True)
    (making.pod.path / STAGE1_ID).write_text(image.id)
    (directory / "name").write_text(known.name)
    for entry in making.manifest["apps"]:
        check_modes(known, entry)
    try:
        convert(known, json.dumps(making.manifest), making.pod.path)
    except ContractError as error:
        raise Failure(str(error)) from None


def check_modes(known: Stage1, entry: Mapping[str, Any]) -> None:
    """Failure when the streams of an app are to be others than what the stage1 gives it."""
    if modes_of(entry) != _ALL and "attach" not in known.entrypoints:
        raise Failure(
            f"app {entry['name']}: stage1 {known.name} has one output for all apps and no attach: no --stdout=…"
        )


async def _gather(fd: int) -> bytes:
    """What comes from a pipe; it is closed then."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
    )
    try:
        return await reader.read(1 << 16)
    finally:
        transport.close()


async def execute(
    g: Globals, asked: PodFlags, making: Making, ready: Coroutine[Any, Any, None], *, mutable: bool = False
) -> int:
    """As `run.execute`. Failure."""
    try:
        with making.or_nothing():
            await ready
            host = asked.flags.values["net"] == "host"
            settle(
                making.manifest, hostname=asked.flags.values["hostname"], host_network="true" if host else ""
            )
            kind = _mutable() if mutable else ForeignPod
            pod = kind(g, making, asked)
            await pod.load()
            making.pod.write_manifest(making.manifest)
            if pod.tpm is not None:
                await measured.measure(g, pod.tpm, None, making.pod.path, making.digests)
            making.pod.move(Phase.RUN)
        with making.holds:
            if asked.flags.is_on("mds-register"):
                pod.registration = await asyncio.to_thread(
                    metadata.announce, making.pod.path, host_network=host
                )
            return await pod.run()
    except (LaunchError, ContractError, cgroups.CgroupError) as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{error.filename or making.pod.path}: {error.strerror}") from None


def _mutable() -> "type[ForeignPod]":
    from executor.rkt.foreignapps import MutableForeignPod

    return MutableForeignPod


def file_steps(pod_dir: Path, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """What puts the files of /etc there that stage0 gives (name → text)."""
    top = str(pod_dir / ROOTFS)
    return [
        {"do": "file", "root": top, "path": f"etc/rkt-{name}", "text": text} for name, text in files.items()
    ]


class _Sandbox(Immutable):
    """With the files of /etc that stage0 gives (name → text), and `run` on a terminal if that is wanted."""

    splits = False  # it is shown as it comes
    files: Mapping[str, str]

    async def open(self) -> None:
        await super().open()
        await self.holder.prepare(file_steps(self.job.pod_dir, self.files))

    async def start_terminal(self, app: str) -> tuple[int, int]:
        with new_terminal() as (master, slave):
            streams = (slave, slave, slave)
            return await self.start_streams(app, streams, interactive=True, terminal=True), master


class ForeignPod(Foreground):
    """One running pod. `load` first."""

    mutable = False

    def __init__(self, g: Globals, making: Making, asked: PodFlags) -> None:
        tpm = measured.settings(g, asked.flags)
        super().__init__(g, making, None, interactive=asked.flags.is_on("interactive"), tpm=tpm)
        self._asked, self._making = asked, making
        self._begun = False

    async def load(self) -> None:
        """Find the stage1 by its id: who has prepared the pod has let it in. Failure."""
        wanted = (self.pod.path / STAGE1_ID).read_text()
        choice = Choice(FOREIGN, (Place(wanted, "never", trusted=True),))
        image, store = await stage1.find(self.g, choice)
        self._making.holds.callback(store.hold(image).close)
        self.stage1 = stage1.read(self.g, image, mutable=self.mutable)
        self._layers = image.layers

    def _handlers(self, name: str, event: str) -> list[list[str]]:
        return []  # the stage1's to run

    def _note(self, name: str, text: str) -> None:
        if name != "pid":  # the stage1 writes that itself; the others it writes in its own mounts
            self.write(name, text)

    def _run_pod(self) -> Callable[..., Awaitable[Sandbox]]:
        return self._run_stage1

    def modes(self, entry: Mapping[str, Any]) -> dict[str, str]:
        """What the annotations say is the stage1's to heed."""
        return _ALL

    async def _on_attach(self, session: Session) -> dict[str, Any] | None:
        """By the stage1's own `attach`, which gets pipes whose other ends are for who asks."""
        name = str(session.message["app"])
        if not isinstance(self.sandbox, ForeignSandbox) or name not in self.runs:
            raise Failure(f"app {name!r} does not run: there is nothing to attach to")
        if "wanted" not in session.message:
            return {"endpoints": await self._endpoints(self.sandbox, name)}
        wanted = [str(one) for one in session.message["wanted"]]
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        ours = {
            "stdin": pipes[0][1], "tty-in": pipes[0][1], "stdout": pipes[1][0], "tty-out": pipes[1][0],
            "stderr": pipes[2][0],
        }  # fmt: skip
        try:
            started = await self.sandbox.attach(name, wanted, tuple(theirs))
            session.reply({"endpoints": wanted}, [ours[one] for one in wanted])
        finally:
            for fd in {*theirs, *ours.values()}:
                os.close(fd)
        try:
            await session.until_gone_or(started.ended)
        finally:
            if not started.ended.done():
                await started.signal(signal.SIGKILL)
        code, _ = started.ended.result() if started.ended.done() else (0, None)
        if code:
            raise Failure(f"app {name!r}: the stage1's attach ended with {code}")
        return {"ended": True}

    async def _endpoints(self, sandbox: ForeignSandbox, name: str) -> list[str]:
        with ExitStack() as undo:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, reading)
            try:
                started = await sandbox.attach(name, None, (writing, writing))
            finally:
                os.close(writing)
            undo.pop_all()
        text = await _gather(reading)
        code, _ = await started.ended
        try:
            if code == 0:
                return [str(one["name"]) for one in json.loads(text)["targets"]]
        except (ValueError, KeyError, TypeError):
            pass
        raise Failure(f"app {name!r}: there is nothing to attach to: {text.decode(errors='replace').strip()}")

    async def _run_stage1(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Sandbox:
        job, files = self.job(pod_dir)
        rewrite(pod_dir, job.foreign.manifest)
        sandbox = _Sandbox(job, on_exit, on_gone)
        sandbox.files, sandbox.listening = files, sockets()
        await sandbox.begin()
        return sandbox

    def job(self, pod_dir: Path) -> tuple[Job, dict[str, str]]:
        """All that is to be known of the pod, and files of /etc. ContractError, Failure."""
        run, files = self._arguments()
        foreign = convert(self.stage1, json.dumps(self.manifest), pod_dir)
        layout = cgroups.detect(
            Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
        )
        foreign = foreign._replace(run=run)
        return Job(pod_dir, self.stage1, self._layers, foreign, layout, self.pod.lock, Patience()), files

    def _arguments(self) -> tuple[RunArguments, dict[str, str]]:
        """What `run` is told: of the flags those that are the stage1's to heed; and files of /etc. Failure."""
        values, lists = self._asked.flags.values, self._asked.flags.lists
        servers = {one for text in lists["dns"] for one in text.split(",")}
        modes = {"resolv.conf": "default", "hosts": "default"}
        if special := servers & {"host", "none"}:
            modes["resolv.conf"] = special.pop()
        elif servers or values["dns-domain"] or lists["dns-search"] or lists["dns-opt"]:
            modes["resolv.conf"] = "stage0"
        if lists["hosts-entry"]:
            modes["hosts"] = "host" if set(lists["hosts-entry"]) == {"host"} else "stage0"
        texts = self._asked.etc(values["hostname"] or f"rkt-{self.pod.name}")
        run = RunArguments(
            net=values["net"],
            hostname=values["hostname"],
            local_config=self.g.local_config,
            resolv=modes["resolv.conf"],
            hosts=modes["hosts"],
            unrestricted_capabilities="capabilities" in self.g.insecure,
            unrestricted_paths="paths" in self.g.insecure,
            unrestricted_seccomp="seccomp" in self.g.insecure,
            ipc="" if values["ipc"] == "auto" else values["ipc"],
            debug=self.g.debug,
            mutable=self.mutable,
            mds_token=self.registration.token if self.registration is not None else "",
        )
        return run, {name: texts[name] for name, mode in modes.items() if mode == "stage0"}

    async def start(self, name: str) -> None:
        """The first one starts them all and has the streams of all."""
        assert self.sandbox is not None
        first, self._begun = not self._begun, True
        run = self.runs[name] = Run()
        run.streams = AppStreams(_ALL if first else _NOTHING, None, interactive=first and self._interactive)
        self._note(f"{STATUS}/{name}-started", str(time.time()))
        try:
            run.pid = await run.streams.start(self.sandbox, name)
        except LaunchError:
            await self._over(name, 254)
            raise


def dispose(pod: Path) -> bool:
    """The stage1's `gc`, before the directory of a pod goes; False when that failed, and was told."""
    if not (pod / "stage1/manifest").exists():
        return True
    layout = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    patience = Patience()
    return disposal.dispose(pod, layout, patience.gc, between=patience.between_gc)
