"""Carries out what the core decides for one pod, and tells it what became of that.

    event ─▶ core.step ─▶ effects ─▶ one task for each that takes time ─▶ event

Everything runs on the event loop; the state is replaced in one place, `dispatch`. On the way from a launch to the
running app there is nothing but the launcher to wait for: no thread, no sync, small files only.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from executor.pods import enforcing, ground, handlers, manifest, storage
from executor.pods.asking import Asking
from executor.pods.console import Console
from executor.pods.containers import all_containers
from executor.pods.core import effects as ef
from executor.pods.core import events as ev
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.spec import ProbeKind, read_pod
from executor.pods.core.states import SandboxState
from executor.pods.core.step import Step, launch, step
from executor.pods.env import ConfigError
from executor.pods.files import Files
from executor.pods.gpus import Devices
from executor.pods.hostpath import VolumeError
from executor.pods.instances import SIGKILL, Instance
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.logread import last_words
from executor.pods.logs import LogWriter
from executor.pods.objects import Objects
from executor.pods.pending import Tasks, Timers
from executor.pods.poddir import Phase, PodDir
from executor.pods.ports import Handling, Machine, Sandbox
from executor.pods.preparing import Preparing
from executor.pods.projections import Payload
from executor.pods.supplies import NOTHING, Supplies
from executor.stage1.manifest import FLAVORS

log = logging.getLogger(__name__)

TERMINATION_MESSAGE_BYTES: Final = 4096
STOP_AGAIN_SECONDS: Final = 1.0
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}")

Reporter = Callable[[ef.Report], None]


class PodRunner:
    """One pod, from its launch to its terminal report; its logs stay readable until `remove`."""

    def __init__(
        self,
        name: str,
        pod: Mapping[str, Any],
        machine: Machine,
        report: Reporter,
        supplies: Supplies = NOTHING,
        devices: Mapping[str, Devices] | None = None,
    ) -> None:
        """name: unique on this machine, a file name. devices: of the containers that have some.

        Raises KeyError or ValueError when `pod` is no v1 Pod, or needs a flavor that there is not.
        """
        for part in (name, *(c["name"] for c in all_containers(pod))):
            if not _FILE_NAME.fullmatch(part):
                raise ValueError(f"{part!r} cannot be the name of a directory")
        self.name = name
        self.pod = pod
        node = machine.node()
        self._machine = machine
        self._supplies = supplies
        self._asking = Asking(self._want, machine.ask_seconds)
        self._refreshing = Asking(self._want, machine.refresh_seconds)
        self._report = report
        self._containers = {c["name"]: c for c in all_containers(pod)}
        flavor = manifest.choose_flavor(pod, supplies.handler, machine.default_flavor, machine.flavors)
        if machine.rules.unenforceable == enforcing.REFUSE:
            enforcing.admit(pod, flavor, machine.facts)
        termination = str(machine.dirs.root / Phase.RUN / name / "termination")
        self._level = manifest.pod_level(
            *(pod, node, flavor, termination, devices, machine.rules),
            default_profile=machine.facts.default_profile,
        )
        self._files = Files(pod, node)
        self._disk = storage.Watch(
            storage.quotas(pod), machine.count_seconds, lambda message: self.dispatch(ev.Evicted(message))
        )
        self._facts = read_pod(
            pod,
            host_ip=node.ip,
            pod_ip=self._level.pod_ip,
            qos_class=self._level.qos_class,
            own_processes=manifest.own_processes(pod["spec"], flavor),
        )
        self._preparing = Preparing(
            pod, self._level, machine, lambda: self._supplies, self.dispatch, self._asking.start
        )
        self._instances: dict[str, Instance] = {}
        self._dir: PodDir | None = None
        self._sandbox: Sandbox | None = None
        self._lost = ""
        self._timers = Timers(self.dispatch)
        self._tasks = Tasks(name, self.dispatch)
        self.over = asyncio.Event()
        begun = launch(self._facts, machine.clock())
        self.state = begun.state
        self._begun = begun

    # --- the loop ---

    def start(self) -> None:
        """Begin. Once."""
        self._apply(self._begun)

    def dispatch(self, event: ev.Event) -> None:
        """Take the pod on by one event."""
        illegal, lives = self.state.illegal, self.state.ending is None
        self._apply(step(self.state, event, self._machine.clock()))
        if lives and self.state.ending is not None:
            self._end_pre_starts()
        if self.state.illegal != illegal:
            log.error("pod %s: %r cannot follow from its state; ignored", self.name, event)

    def kill(self, grace: float | None, message: str) -> None:
        """End the pod: SIGTERM, after so many seconds SIGKILL. None: the pod's own grace."""
        self.dispatch(ev.KillRequested(grace, message))

    def _want(self) -> None:
        self._machine.want(self.name, self._supplies.digest)

    def provide(self, objects: Objects, digest: str) -> None:
        """What there is now of the objects it uses. What was waiting for them is tried again at once; files change."""
        if digest == self._supplies.digest:
            return
        self._supplies = replace(self._supplies, objects=objects, digest=digest)
        self._asking.stop()
        if self._sandbox is not None and not self.over.is_set():
            self._files.renew(self._sandbox.pid, objects)
        self._timers.hasten(self._was_held)

    def _was_held(self, timer: Timer) -> bool:
        """Whether what it waits for may be there when the objects have changed."""
        if timer.kind is TimerKind.RETRY:
            return bool(timer.app) and self.state.container(timer.app).reason == "CreateContainerConfigError"
        return timer.kind is TimerKind.SANDBOX

    def lost(self, message: str) -> None:
        """All processes of the pod are dead."""
        self._lost = message
        self._machine.metadata.close(self.name)
        for app in list(self._instances):
            self._close_log(app)
        self.dispatch(ev.SandboxLost(message))

    def _apply(self, done: Step) -> None:
        self.state = done.state
        for effect in done.effects:
            match effect:
                case ef.Report():
                    self._report(effect)
                    if effect.terminal:
                        self._end()
                case ef.SetTimer(timer, after):
                    self._timers.set(timer, after)
                case ef.StartSandbox():
                    self._tasks.spawn(effect, self._start_sandbox())
                case ef.StopSandbox():
                    self._tasks.spawn(effect, self._stop_sandbox())
                case ef.Prepare(app):
                    self._tasks.spawn(effect, self._preparing.prepare(self._containers[app]))
                case ef.Start(app, attempt):
                    self._tasks.spawn(effect, self._start(app, attempt))
                case ef.Stop(app, force):
                    self._tasks.spawn(effect, self._stop(app, force=force))
                case ef.RunHook(app, attempt, hook):
                    self._tasks.spawn(effect, self._run_hook(app, attempt, hook))
                case ef.MakeCheck(app, attempt, kind):
                    self._tasks.spawn(effect, self._make_check(app, attempt, kind))

    def _end(self) -> None:
        self._timers.cancel()
        self._asking.stop()
        self._refreshing.stop()
        self._disk.stop()
        self._tasks.cancel()
        self._preparing.close()
        self.over.set()

    # --- the sandbox ---

    async def _start_sandbox(self) -> None:
        try:
            await self._machine.trash.room()
            insist = self._machine.rules.unenforceable == enforcing.REFUSE
            await ground.prepare(self.pod, self._machine.facts, insist=insist)
            files = self._make_files()
            self._make_dir()
            self._lost = ""
            digests = {app: ready.image.digest for app, ready in self._preparing.ready.items()}
            await self._machine.measure(self._path, self.pod["metadata"].get("uid", ""), digests)
            self._machine.metadata.prepare(self._path, self.pod, self._level.flavor)
            sandbox = await self._machine.run_pod(self._path, self._on_exit, self.lost)
            await self._equip(sandbox, files)
        except (VolumeError, ConfigError) as error:
            await self._drop_dir()
            self.dispatch(ev.SandboxFailed("FailedMount", str(error)))
        except (LaunchError, ground.GroundError, OSError) as error:
            await self._drop_dir()
            self.dispatch(
                ev.SandboxFailed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            )
        else:
            self._sandbox = sandbox
            self.dispatch(ev.SandboxStarted())
            self._disk.start(self._path)

    def _make_files(self) -> dict[str, Payload]:
        try:
            return self._files.make(self._supplies.objects)
        except VolumeError:
            self._asking.start()
            raise

    async def _equip(self, sandbox: Sandbox, files: Mapping[str, Payload]) -> None:
        try:
            await self._machine.metadata.open(self._path, sandbox)
            if self._lost:  # between the launcher's answer and now
                raise LaunchError(self._lost)
            if files:
                self._files.write(sandbox.pid, files)
        except (VolumeError, LaunchError):
            await sandbox.stop()
            raise
        if files and self._files.may_change:
            self._refreshing.start(now=False)

    def _make_dir(self) -> None:
        self._dir = directory = self._machine.dirs.create(self.name)
        directory.prepare(list(self._containers))
        for app, ready in self._preparing.ready.items():
            directory.write_app(app, self._containers[app]["image"], ready.image.id, ready.image.layers)
        entries = [self._preparing.ready[app].entry for app in self._containers]
        directory.write_manifest(self._enforceable(manifest.pod_manifest(self._level, entries)))
        directory.move(Phase.PREPARED)
        directory.move(Phase.RUN)

    def _enforceable(self, made: dict[str, Any]) -> dict[str, Any]:
        """Under the policy refuse all of it: stage1 says what it does not do."""
        if self._machine.rules.unenforceable == enforcing.REFUSE:
            return made
        made, said = enforcing.without_unenforceable(made, self._level.flavor, self._machine.facts)
        self.dispatch(ev.NotEnforced(said))
        return made

    async def _drop_dir(self) -> None:
        self._machine.metadata.close(self.name)
        if self._dir is not None:
            directory, self._dir = self._dir, None
            await asyncio.to_thread(directory.remove)

    @property
    def _path(self) -> Path:
        if self._dir is None:
            raise FileNotFoundError(f"pod {self.name} has no directory")
        return self._dir.path

    async def _stop_sandbox(self) -> None:
        self._disk.stop()
        self._machine.metadata.close(self.name)  # first: no network in which a socket is open is passed on
        while self._sandbox is not None:
            try:
                await self._sandbox.stop()
            except LaunchError as error:
                log.error("pod %s: %s; trying again", self.name, error)
                await asyncio.sleep(STOP_AGAIN_SECONDS)
            else:
                self._sandbox = None
        for app in list(self._instances):
            self._close_log(app)
        if self._dir is not None:
            self._dir.move(Phase.EXITED)
            for app, instance in self._instances.items():
                instance.log.moved(self._dir.log(app, instance.attempt))
        self.dispatch(ev.SandboxStopped())

    # --- apps ---

    async def _start(self, app: str, attempt: int) -> None:
        sandbox, directory = self._sandbox, self._dir
        if sandbox is None or directory is None:
            raise AssertionError(f"start of {app} without a sandbox")
        container = self._containers[app]
        try:
            if attempt > 0:
                await sandbox.remove_app(app)
                directory.empty_termination_log(app)
                directory.drop_logs(app, attempt - 2)  # the last one stays for `kubectl logs --previous`
            instance = self._instances[app] = Instance(app, attempt, directory.log(app, attempt))
            code = await self._run_handler(instance, "pre-start")
            if code != 0:
                raise LaunchError(f"the image's pre-start handler ended with exit code {code}")
            tty, stdin = (bool(container.get(name)) for name in ("tty", "stdin"))
            await instance.start(sandbox, tty=tty, stdin=stdin, ports=self._preparing.ready[app].ports)
        except (LaunchError, OSError) as error:
            self._close_log(app)
            self.dispatch(ev.StartFailed(app, attempt, str(error)))
            return
        self.dispatch(ev.Started(app, attempt))
        instance.starting = False
        if instance.pending is not None:
            self._exited(instance, instance.pending)

    def _on_exit(self, ended: AppExit) -> None:
        instance = self._instances.get(ended.app)
        if instance is None:
            log.error("pod %s: %s ended, which never ran", self.name, ended.app)
        elif not instance.takes(ended):
            self._exited(instance, ended)

    async def _run_handler(self, instance: Instance, name: str) -> int:
        """The exit code of an event handler of the image, 0 without one. Raises LaunchError."""
        argv = self._preparing.ready[instance.app].handlers.get(name)
        if not argv or not isinstance(self._sandbox, Handling):
            return 0

        def begun() -> None:
            if self.state.ending is not None and name == "pre-start":
                self._end_pre_starts()

        return await instance.run_handler(self._sandbox, argv, begun)

    def handles(self, app: str) -> bool:
        """Whether an event handler runs in the place of the app."""
        instance = self._instances.get(app)
        return instance is not None and instance.handling

    def _end_pre_starts(self) -> None:
        """A pod that ends does not wait for handlers of apps that have not begun."""
        for app, instance in self._instances.items():
            if instance.starting and instance.handling:
                self._tasks.spawn(ef.Stop(app, force=True), self._stop(app, force=True))

    def _exited(self, instance: Instance, ended: AppExit) -> None:
        """The app has ended; its post-stop handler is a part of that, unless it had to be killed."""
        forced = self.state.container(ended.app).forced
        if not forced and "post-stop" in self._preparing.ready[ended.app].handlers:
            self._tasks.spawn(ef.Stop(ended.app), self._post_stop(instance, ended))
        else:
            self._finished(instance, ended)

    async def _post_stop(self, instance: Instance, ended: AppExit) -> None:
        try:
            code = await self._run_handler(instance, "post-stop")
            if code != 0:
                log.info("pod %s: %s: post-stop handler: exit code %d", self.name, ended.app, code)
        except (LaunchError, OSError) as error:
            log.info("pod %s: %s: post-stop handler: %s", self.name, ended.app, error)
        self._finished(instance, ended)

    def _finished(self, instance: Instance, ended: AppExit) -> None:
        self._close_log(ended.app)
        failed = ended.exit_code != 0
        self.dispatch(
            ev.Exited(
                ended.app,
                instance.attempt,
                ended.exit_code,
                ended.signal,
                ended.oom_killed,
                ended.finished_at,
                self._termination_message(ended.app, instance.attempt, failed=failed),
            )
        )

    def _termination_message(self, app: str, attempt: int, *, failed: bool) -> str:
        if self._dir is None:
            return ""
        message = self._dir.termination_message(app, TERMINATION_MESSAGE_BYTES)
        fallback = self._containers[app].get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not message and failed and fallback:
            return last_words(self._dir.log(app, attempt))
        return message

    def _close_log(self, app: str) -> None:
        instance = self._instances.get(app)
        if instance is not None:
            instance.close()

    async def _stop(self, app: str, *, force: bool) -> None:
        if self._sandbox is None:
            return
        signum = SIGKILL if force else self._preparing.ready[app].stop_signal
        try:
            await self._sandbox.signal_app(app, signum)
        except LaunchError as error:
            log.info("pod %s: %s", self.name, error)  # it has just ended by itself

    # --- hooks and probes ---

    def place(self, app: str) -> handlers.Place:
        """Where an app runs. Raises LaunchError."""
        return handlers.Place(self.sandbox, app, self._containers[app], self._level.pod_ip)

    async def _run_hook(self, app: str, attempt: int, hook: ev.Hook) -> None:
        error = ""
        try:
            await handlers.hook(self.place(app), self._containers[app]["lifecycle"][hook.value])
        except (handlers.HookError, LaunchError) as failure:
            error = str(failure)
        self.dispatch(ev.HookEnded(app, attempt, hook, error))

    async def _make_check(self, app: str, attempt: int, kind: ProbeKind) -> None:
        try:
            answer, message = await handlers.probe(self.place(app), self._containers[app][f"{kind}Probe"])
        except LaunchError as error:
            answer, message = ev.Answer.UNKNOWN, str(error)
        self.dispatch(ev.Probed(app, attempt, kind, answer, message))

    @property
    def sandbox(self) -> Sandbox:
        """Raises LaunchError when it does not run."""
        if self._sandbox is None:
            raise LaunchError(f"pod {self._facts.name} does not run")
        return self._sandbox

    def stdin_once(self, app: str) -> bool:
        return bool(self._containers[app].get("stdinOnce"))

    def attach(self, app: str) -> tuple[LogWriter, Console]:
        """What the newest instance writes and reads. Raises LookupError when it does not run."""
        instance = self._instances.get(app)
        if instance is None or instance.starting or instance.log.closed:
            raise LookupError(f'container not found ("{app}")')
        return instance.log, instance.console

    # --- afterwards ---

    @property
    def grace(self) -> float:
        """The pod's own terminationGracePeriodSeconds."""
        return self._facts.grace

    def log_of(self, app: str, *, previous: bool) -> tuple[Path, LogWriter | None]:
        """The newest log file of the app's newest instance, or of the one before, and who still writes it.

        Raises LookupError with the kubelet's words when there is none.
        """
        if app not in self._containers:
            raise LookupError(f"container {app} is not valid for pod {self._facts.name}")
        attempt = self.state.container(app).attempt - previous
        if attempt < 0 or self._dir is None:
            kind = f'previous terminated container "{app}"' if previous else f'container "{app}"'
            problem = "not found" if previous else f"is waiting to start: {self._waiting(app)}"
            raise LookupError(f'{kind} in pod "{self._facts.name}" {problem}')
        instance = self._instances.get(app)
        writer = instance.log if instance is not None and instance.attempt == attempt else None
        return self._dir.log(app, attempt), writer

    def _waiting(self, app: str) -> str:
        container = self.state.container(app)
        return container.reason or ("ContainerCreating" if self.state.initialized else "PodInitializing")

    async def strip(self) -> None:
        """Remove all but the logs of a pod that is over; of one of our flavors soon (see `trash`)."""
        if self._dir is None or self.state.sandbox is not SandboxState.GONE:
            return
        if self._level.flavor not in FLAVORS:
            await asyncio.to_thread(
                self._dir.strip
            )  # a machine, or a stage1 of others, may have changed anything
        else:
            self._machine.trash.later(partial(self._dir.strip_known, list(self._containers)))

    async def remove(self) -> None:
        """Remove what is left of a pod that is over."""
        await self._drop_dir()
