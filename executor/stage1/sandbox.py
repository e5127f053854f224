"""One running pod, as the launcher sees it: its init, its apps, its cgroups, and how all of it ends."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from executor.stage1 import (
    caps,
    cgroups,
    channel,
    inits,
    isolators,
    listening,
    manifest,
    nspawn,
    ops,
    plan,
    podfiles,
    reading,
    reuse,
    userns,
)
from executor.stage1.children import Kind
from executor.stage1.inits import Init
from executor.stage1.instances import Execs, Instance, executed
from executor.stage1.ops import StageError
from executor.stage1.process import SOCKET, Process
from executor.stage1.starters import Answer, Starter
from executor.stage1.update import updated

if TYPE_CHECKING:
    from executor.stage1.launcher import Launcher

_PATIENCE_SECONDS: Final = 10.0


class Sandbox:
    """State: starting (init works) → running → ending (init dead or stop asked) → gone (forgotten)."""

    def __init__(self, launcher: "Launcher", directory: str) -> None:
        self._launcher = launcher
        self._key = directory
        self._paths = plan.Paths(directory.rstrip("/"))
        self._pod = self._first = reading.read_manifest(directory)._replace(
            metadata_url=reading.read_url(directory)
        )
        name, disk = os.path.basename(self._paths.pod), reading.disk(self._pod, self._paths.pod)
        self._cgroup = cgroups.PodCgroup(
            *(launcher.layout, name),
            disk=disk,
            without=reading.unlimited(self._pod),
            apart=launcher.has_lists and reading.apart(self._pod),
            spares=None if self._pod.any_privileged else launcher.cgroups,
        )
        self._apps: dict[str, Instance] = {}
        self._starters: dict[str, int] = {}
        self._execs = Execs(launcher, directory, self._apps)
        self._removing: set[str] = set()
        self._init: Init | None = None
        self._init_lives = False
        self._passes_on = reuse.leaves_no_trace(self._pod, self._paths.pod)
        self._door = -1  # whom the apps' starters enter: init, or somebody in its place
        self._on_running: Answer | None = None
        self._on_stopped: list[Answer] = []
        self._prepared = False
        self._lowers: dict[str, tuple[str, ...]] = {}  # layers that have been read, and not been used
        self._ready: dict[str, bytes] = {}
        self._handlers: dict[str, tuple[str, ...]] = {}
        self._ending = self._gone = False
        self._reason = ""

    # -- run ----------------------------------------------------------------------------------------------

    def run(self, answer: Answer) -> None:
        """Make the pod's init and cgroups; answers {"pid"} or {"error"}."""
        launcher = self._launcher
        init = self._take_init()
        launcher.expect(init.pid, self._on_init_exit)
        if not init.pods:
            launcher.watch(init.socket.fileno(), self._on_init_message)
        self._on_running = answer
        try:
            self._cgroup.create()
            self._cgroup.limit(self._pod.limits)
            if init.pods:
                self._on_init_ready(init)
            else:
                self._tell(init)
        except (OSError, cgroups.CgroupError) as error:
            self._end(f"prepare {self._key}: {reading.text(error)}")

    def _take_init(self) -> Init:
        """A user namespace is for every pod it fits, unless the pod says otherwise; one that must have it gets it."""
        launcher, pod = self._launcher, self._pod
        if pod.flavor == "nspawn" and (why_not := nspawn.why_not()):
            raise StageError(f"run {self._key}: {why_not}")
        why_not = userns.why_not()
        if pod.users == "private" and why_not:
            raise StageError(f"run {self._key}: {why_not}")
        users = pod.users == "private" or (
            pod.users != "host" and pod.may_have_users and not why_not and self._can_map()
        )
        kind = Kind(pod.flavor, pod.host_network, users, pod.host_pid, pod.host_ipc)
        self._init = init = launcher.take_init(kind, pod if self._passes_on else None)
        self._init_lives, self._door = True, init.pidfd
        if init.ids is not None:
            self._pod = self._first = pod._replace(ids=init.ids.base)
        else:
            self._passes_on = False
        return init

    def _can_map(self) -> bool:
        return not self._unmappable(self._pod)

    def _unmappable(self, pod: manifest.Pod) -> list[str]:
        places = [(self._paths.pod, False)]
        own = f"{self._paths.pod}/"  # in which nothing is mounted
        hosts = [volume for volume in pod.volumes.values() if volume.kind == "host"]
        places += [(one.source, one.recursive and not one.source.startswith(own)) for one in hosts]
        for name in pod.apps:
            if lowers := self._read_lowers(name):
                places.append((lowers[-1], False))
        return [path for path, deep in places if not self._launcher.mappable.can_map(path, recursive=deep)]

    def _read_lowers(self, name: str) -> tuple[str, ...]:
        """In advance; nothing when stage0 has not said yet which they are."""
        if name not in self._lowers:
            try:
                self._lowers[name] = reading.read_lowers(self._paths, name)
            except FileNotFoundError:
                return ()
        return self._lowers[name]

    def _tell(self, init: Init) -> None:
        command: list[str] | None = None
        if self._pod.flavor == "nspawn":
            root = f"{self._paths.pod}/stage1/rootfs"
            name = nspawn.machine_name(os.path.basename(self._paths.pod))
            nspawn.prepare(root)
            command = nspawn.command(root, name, self._pod.hostname, host_network=self._pod.host_network)
        inits.tell(init, self._pod, self._cgroup, command)

    def _on_init_message(self) -> None:
        assert self._init is not None
        wrong, fds = inits.hear(self._init)
        self._launcher.unwatch(self._init.socket.fileno())
        if self._init.executes_lists:
            self._init.socket.close()  # it has closed its own
        if self._pod.flavor == "nspawn" and fds:
            self._door = fds.pop()
        if self._ending:
            return
        if wrong:
            self._end(wrong)
            return
        self._on_init_ready(self._init)

    def _on_init_ready(self, init: Init) -> None:
        answer, self._on_running = self._on_running, None
        if answer is not None:
            there = self._door == init.pidfd  # it has the pod's network and mounts itself
            answer({"pid": init.pid if there else userns.on_host(self._door)})
        # While the executor makes up its mind:
        self._prepare()

    def _prepare(self) -> None:
        """Files and directories the apps will need, in advance; what fails here fails again, loudly, at `start`."""
        assert self._init is not None
        try:
            podfiles.write(f"{self._paths.pod}/pid", f"{self._init.pid}\n")
            podfiles.link(f"{self._paths.pod}/flavor", self._pod.flavor)
            self._make_pod_ready()
            for name in self._pod.apps:
                if self._read_lowers(name):
                    self._make_ready(name)
        except (OSError, StageError, cgroups.CgroupError) as error:
            sys.stderr.write(f"stage1: prepare {self._key}: {reading.text(error)}\n")

    def _make_pod_ready(self) -> None:
        if not self._prepared:
            podfiles.prepare(self._paths, self._pod)
            self._prepared = True

    def _make_ready(self, name: str, sockets: tuple[str, ...] = ()) -> bytes:
        """Directories, cgroup and limits of an app; returns what its starter is told (channel.encode)."""
        handler = self._handlers.get(name)
        if not handler and not sockets and name in self._ready:
            self._cgroup.renew(name)
            return self._ready[name]
        lowers = self._lowers.pop(name, None) or reading.read_lowers(self._paths, name)
        app = self._pod.apps[name]
        for directory in (self._paths.upper(name), self._paths.work(name)):
            podfiles.make_directory(directory)
        self._cgroup.create_app(name, app.limits, alone=len(self._pod.apps) == 1)
        members = self._cgroup.app_members(name)
        layers = self._launcher.points.below(lowers)
        todo = ops.pack(plan.app_plan(self._pod, app, self._paths, layers, members))
        process = plan.app_process(self._pod, app)
        self._check_capabilities(app, process)
        if handler:
            process = process._replace(argv=handler)
            if app.root_handlers:
                process = process._replace(user="0", group="0", supplementary_gids=())
            return self._job(todo, process, "init")
        if sockets:
            process = listening.given(process, self._pod, app, sockets)
            return self._job(todo, process, "init")
        job = self._ready[name] = self._job(todo, process, "init")
        return job

    def _check_capabilities(self, app: manifest.App, process: Process) -> None:
        """A user namespace has all of them, and whoever is not root keeps none. Raises StageError."""
        if self._pod.ids or process.capabilities is None or userns.number(app.user):
            return
        if missing := caps.lacking(process.capabilities):
            why = f"the executor itself lacks {', '.join(missing)}"
            raise StageError(f"start {app.name}: isolator {isolators.CAPABILITIES[0]}: {why}")

    def _users(self) -> list[int]:
        """The pod's user namespace, if it has one of its own."""
        return [] if self._init is None or self._init.users < 0 else [self._init.users]

    def _job(self, todo: list[Any], process: Process, whom: str) -> bytes:
        names = (whom, "users") if self._users() else (whom,)
        more = [f"{SOCKET}{number}" for number in range(process.sockets)]
        return channel.encode((todo, tuple(process), (*names, *more)))

    # -- apps ---------------------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        fds: list[int],
        answer: Answer,
        argv: tuple[str, ...] = (),
        sockets: tuple[str, ...] = (),
    ) -> None:
        """Start an app; answers {"pid"} or {"error"}. Raises StageError. argv: an event handler of it instead.

        `fds` are [stdin,] stdout, stderr; or none: then it gets a terminal, whose master side is answered too. Behind
        them a listening socket for each name in `sockets`.
        """
        if name not in self._pod.apps:
            raise StageError(f"start {name}: the pod has no such app")
        if self._ending or self._on_running is not None:
            raise StageError(f"start {name}: the pod does not run")
        if name in self._apps or name in self._starters:
            raise StageError(f"start {name}: it runs already")
        if name in self._removing:
            raise StageError(f"start {name}: it is being removed")
        self._handlers[name] = argv
        kills = self._cgroup.oom_kills_before(name)
        starter = self._take_starter(name, lambda pid: self._on_started(name, pid, kills), answer, kills)
        try:
            self._make_pod_ready()
            streams = len(fds) - len(sockets)
            self._look_at(fds)
            named = [self._door, *self._users(), *fds[streams:]]
            starter.begin(self._make_ready(name, sockets), fds[:streams], named)
        except (OSError, cgroups.CgroupError) as error:
            starter.end()
            raise StageError(f"start {name}: {reading.text(error)}") from None
        except StageError:
            starter.end()
            raise

    def _look_at(self, fds: list[int]) -> None:
        """Through a socket an app could hand somebody descriptors that outlive the pod (see `reuse`)."""
        if self._passes_on and any(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in fds):
            self._passes_on = False

    def _take_starter(
        self, name: str, on_started: Callable[[int], None], answer: Answer, kills: int, app: str = ""
    ) -> Starter:
        """A starter under a name of its own; what goes wrong with it is answered here."""

        def on_failed(reason: str) -> None:
            why = reason or self._why_it_died(app or name, kills)
            if not app:
                self._cgroup.kill(name)
            answer({"error": why})

        return Starter(
            *(self._launcher, self._launcher.take_starter(), self._starters, name),
            on_started,
            on_failed,
            answer,
            self._advance,
        )

    def _on_started(self, name: str, pid: int, kills: int) -> None:
        """The app's program has been executed; called before anybody is told, so that its exit is not missed."""
        self._apps[name] = Instance(pid, kills)
        if not self._ending and not self._handlers.get(name):
            self._note(f"{name}-started", f"{time.time():.6f}\n")
        self._launcher.expect(pid, lambda status: self._on_exit(name, status))
        if self._ending:
            self._cgroup.kill(name)

    def _note(self, name: str, text: str) -> None:
        """Write a status file. A disk that the apps have filled must not keep their ends from being told."""
        try:
            podfiles.write(self._paths.status(name), text)
        except OSError as error:
            sys.stderr.write(f"stage1: status {name} of {self._key}: {reading.text(error)}\n")

    def update(self, answer: Answer) -> None:
        """Read the manifest again: the pod's apps are those that it has now. Raises StageError."""
        if self._ending or self._on_running is not None:
            raise StageError(f"update {self._key}: the pod does not run")
        running = {name.partition("#")[0] for name in (*self._apps, *self._starters)}
        pod = updated(self._first, reading.read_manifest(self._key), running)
        if pod.ids and (places := self._unmappable(pod)):
            raise StageError(
                f"{places[0]}: its file system cannot be id-mapped, and the pod has ids of its own"
            )
        self._cgroup.extend(without=reading.unlimited(pod))
        self._passes_on = self._passes_on and reuse.leaves_no_trace(pod, self._paths.pod)
        self._pod, self._prepared = pod, False
        self._ready.clear()
        self._lowers.clear()
        answer({})

    # -- exec ---------------------------------------------------------------------------------------------

    def exec(self, request: dict[str, Any], fds: list[int], answer: Answer) -> None:
        """Run one more program in a running app, as that app; answers {"pid", "exec"} or {"error"}.

        request: app, argv, and optionally environment (added to the app's) and directory. Raises StageError.
        """
        name = request["app"]
        instance = self._apps.get(name)
        if instance is None or instance.pid < 0 or self._ending:
            raise StageError(f"exec in {name}: it does not run")
        app = self._pod.apps[name]
        process = executed(self._pod, app, request)
        todo = ops.pack(plan.enter_plan(self._pod, app, self._cgroup.app_members(name)))
        number = self._execs.next()
        starter = self._take_starter(
            f"{name}#{number}",
            lambda pid: self._execs.started(name, number, pid, self._advance),
            lambda reply, descriptors=(): answer({**reply, "exec": number}, descriptors),
            instance.oom_kills_before,
            app=name,
        )
        door = -1
        try:
            self._look_at(fds)
            door = os.pidfd_open(instance.pid)
            starter.begin(self._job(todo, process, "app"), fds, [door, *self._users()])
        except OSError as error:
            starter.end()
            raise StageError(f"exec in {name}: {reading.text(error)}") from None
        finally:
            if door >= 0:
                os.close(door)

    def signal_exec(self, number: int, signum: int, answer: Answer) -> None:
        """Signal what `exec` has started; one that has ended is no error. Raises StageError."""
        self._execs.signal(number, signum)
        answer({})

    def _why_it_died(self, name: str, kills: int) -> str:
        if self._cgroup.oom_kills(name) > kills:
            return f"start {name}: its memory limit is too small even to start it"
        return f"start {name}: the process that prepares it died"

    def _on_exit(self, name: str, status: int) -> None:
        """The app's main process has ended: so does the app, whatever it has left behind."""
        instance = self._apps[name]
        self._apps[name] = instance._replace(pid=-1)
        oom = status != 0 and self._cgroup.oom_kills(name) > instance.oom_kills_before
        self._bury(name, status, oom, time.monotonic() + _PATIENCE_SECONDS, 0.001)

    def _bury(self, name: str, status: int, oom: bool, deadline: float, pause: float) -> None:
        """Kill what is left of an app; when that is nothing, say that it has ended."""
        if not self._cgroup.kill(name) and time.monotonic() < deadline:
            following = min(pause * 2, 0.05)
            self._launcher.later(pause, lambda: self._bury(name, status, oom, deadline, following))
            return
        del self._apps[name]
        code = os.waitstatus_to_exitcode(status)
        if not self._handlers.get(name):
            self._note(name, f"{code if code >= 0 else 128 - code}\n")
        self._launcher.send_event(
            {
                "event": "exit",
                "pod": self._key,
                "app": name,
                "code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
                "oom": oom,
                "at": time.time(),
            }
        )
        self._advance()

    def _kill_until_ended(self, name: str, instance: Instance) -> None:
        """Processes that are forked while we kill need another round; the main one's end hands over to `_bury`."""
        if self._apps.get(name) is instance and not self._cgroup.kill(name):
            self._launcher.later(0.005, lambda: self._kill_until_ended(name, instance))

    def signal(self, name: str, number: int, answer: Answer) -> None:
        """Signal the app's main process; SIGKILL: all of its processes. Raises StageError."""
        instance = self._apps.get(name)
        if instance is None:
            raise StageError(f"signal {name}: it does not run")
        if number == signal.SIGKILL:
            self._kill_until_ended(name, instance)
        instance.signal(number)
        answer({})

    def remove(self, name: str, answer: Answer) -> None:
        """Forget a dead app: its cgroups go (its files are the caller's to remove). Raises StageError."""
        if name not in self._pod.apps:
            raise StageError(f"remove {name}: the pod has no such app")
        if name in self._apps or name in self._starters:
            raise StageError(f"remove {name}: it still runs")
        self._removing.add(name)
        self._ready.pop(name, None)
        self._remove_until_gone(name, answer, time.monotonic() + _PATIENCE_SECONDS, 0.001)

    def _remove_until_gone(self, name: str, answer: Answer, deadline: float, pause: float) -> None:
        if self._gone or (self._cgroup.kill(name) and self._cgroup.remove(name)):
            self._removing.discard(name)
            answer({})
        elif time.monotonic() > deadline:
            self._removing.discard(name)
            answer({"error": f"remove {name}: its cgroup is still in use after {_PATIENCE_SECONDS:.0f} s"})
        else:
            following = min(pause * 2, 0.1)
            self._launcher.later(pause, lambda: self._remove_until_gone(name, answer, deadline, following))

    # -- the end ------------------------------------------------------------------------------------------

    def stop(self, answer: Answer) -> None:
        """Kill everything in the pod and remove its cgroups; answers {} when nothing is left."""
        self._on_stopped.append(answer)
        self._end("")

    def _on_init_exit(self, _status: int) -> None:
        self._init_lives = self._passes_on = False
        self._end("the pod's init died" if not self._ending else self._reason)
        self._advance()

    def _end(self, reason: str) -> None:
        """A pod of which something still runs takes its init along, which ends that at once."""
        if self._ending:
            return
        self._ending, self._reason = True, reason
        answer, self._on_running = self._on_running, None
        if answer is not None:  # whoever asked for the pod hears of its end, whatever that was
            self._on_stopped.append(lambda *_: answer({"error": reason or "the pod was stopped"}))
        if reason or answer is not None or self._runs() or not self._passes_on:
            self._kill_init()
        for name, pid in self._starters.items():
            if pid:
                os.kill(pid, signal.SIGKILL)  # ours and not reaped yet, so the pid is not another's
                self._starters[name] = 0  # whatever it has said by now, nobody else is to have it
        self._clean_until_gone(time.monotonic() + _PATIENCE_SECONDS, 0.001)

    def _runs(self) -> bool:
        return bool(self._apps or self._starters or self._execs)

    def _kill_init(self) -> None:
        self._passes_on = False
        if self._init is not None and self._init_lives:
            self._init.kill()

    def _advance(self) -> None:
        """Something of an ending pod has ended: look at once whether that was all."""
        if self._ending:
            self._finish()

    def _clean_until_gone(self, deadline: float, pause: float) -> None:
        if self._gone or self._finish():
            return
        if time.monotonic() > deadline:
            self._kill_init()
            self._report(f"stop {self._key}: its cgroup is still in use after {_PATIENCE_SECONDS:.0f} s")
            return
        following = min(pause * 2, 0.1)
        self._launcher.later(pause, lambda: self._clean_until_gone(deadline, following))

    def _finish(self) -> bool:
        """Kill and remove what is left; True when there is nothing (and says so, once)."""
        dies = self._init_lives and not self._passes_on
        if self._runs() or dies or not self._cgroup.remove():
            # Of a pod without apps there is nothing to kill but init, which is dying; or the removal would have worked.
            if self._runs() or not dies:
                self._cgroup.kill()
            return False
        if self._passes_on and self._init is not None and not self._launcher.keep(self._init, self._pod):
            self._kill_init()
            return False
        self._report("")
        return True

    def _report(self, error: str) -> None:
        if self._gone or self._init is None:
            return
        self._gone = True
        if not self._passes_on:
            self._launcher.unwatch(self._init.socket.fileno())
            if self._door != self._init.pidfd:
                os.close(self._door)
            self._init.close()
        self._launcher.forget_sandbox(self._key)
        for answer in self._on_stopped:
            answer({"error": error} if error else {})
        if not self._on_stopped:
            self._launcher.send_event({"event": "gone", "pod": self._key, "reason": error or self._reason})
