"""The launcher: a single-threaded fork server that runs pods for one executor.

Started once, starts everything else, and is the parent of all: apps are spawned by a starter's child and
inherited by the launcher (it is their subreaper), so it sees every exit status itself. It ends when the
executor does (the control socket closes, or SIGTERM by PR_SET_PDEATHSIG), killing all pods; when it is killed
itself, the pods' inits follow (children.py). It never blocks on a child and keeps no state on disk but the
pod directories' status files.
"""

import gc
import heapq
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from executor.stage1 import bare, caps, cgroups, channel, children, machine, reuse, seccomp, syscalls, userns
from executor.stage1.cgroup_spares import Spares
from executor.stage1.children import Kind
from executor.stage1.inits import Init, Maker
from executor.stage1.machine.passing import Renewal
from executor.stage1.manifest import Pod
from executor.stage1.ops import StageError
from executor.stage1.points import Points
from executor.stage1.process import make_room
from executor.stage1.reaper import Reaper
from executor.stage1.sandbox import Sandbox
from executor.stage1.starters import Answer, Child, Waiting
from executor.stage1.worker import worker

_END_SECONDS: Final = 10.0
_REFILL_SECONDS: Final = 0.002
_PUT_OFF_SECONDS: Final = 0.006  # once, for starts that go on
_IDLE_SECONDS: Final = 5.0
_MOST_KEPT: Final = 8
_AGAIN_SECONDS: Final = 0.001
_RECORD: Final = 128
_SIGNAL_AT: Final = 0 if sys.byteorder == "little" else 3  # in struct signalfd_siginfo, of a number below 256
_SIGNALS_AT_ONCE: Final = 4


class Launcher:
    """Event loop over the control socket, the children's sockets and SIGCHLD."""

    def __init__(
        self,
        control: socket.socket,
        layout: cgroups.Layout,
        host: int,
        spares: int,
        *,
        only: Kind | None = None,
        lists: bool = True,
        points: str = "",
    ) -> None:
        """only: of this kind there will be one pod, and no other. lists: use the program that executes them.

        points: a directory for mount points (see `points`).
        """
        self.layout = layout
        self._control = control
        self._host = host
        self._last_cap = caps.last_cap()
        self._machine = machine.get() if lists else None
        self._bare = bare.make(layout.roots) if self._machine is not None else None
        self._limit = make_room()  # of descriptors: a pod takes some ten
        self._inits = Maker(self._machine, self._bare, self._last_cap, self._limit)
        self._keeper = self._make_keeper()
        self._spares = spares
        # Refilled for the kinds that were asked for, and the usual one.
        usual = Kind("linux", host_network=False, users=not userns.why_not())
        self._spare_inits: dict[Kind, list[Init]] = {only or usual: []}
        self._most_kept = _MOST_KEPT if spares and only is None else 0
        self._kept: list[Init] = []
        """Those that pods have had, and no pod has; the oldest first."""
        self._once = only is not None
        self.mappable = userns.Mappable()
        self.points = Points(points)
        self.cgroups = Spares(layout, self._most_kept)
        self._spare_starters = Waiting(spares, _IDLE_SECONDS)
        self._dismissing = False
        self._sandboxes: dict[str, Sandbox] = {}
        self._reaper = Reaper()
        self.expect = self._reaper.expect
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._closing = False
        self._refill_planned = False
        self._expiring = False
        self._put_off = False

    # -- what sandboxes use -------------------------------------------------------------------------------

    @property
    def has_lists(self) -> bool:
        """Whether inits are programs that execute lists, not forks of ours (which kill their pods' cgroups)."""
        return self._bare is not None

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `fd` is readable or its other end has gone."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget `fd` (before it is closed)."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` once, after `seconds`."""
        self._sequence += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._sequence, action))

    def take_init(self, kind: Kind, heir: Pod | None = None) -> Init:
        """An init that has made, or is making, its namespaces. heir: the pod may have one that others of its tenant's
        have had (see `reuse`), and that is ready for it; `pods` tells."""
        if heir is not None and self._keeper is not None:
            fitting = [one for one in self._kept if one.kind == kind and one.tenant == heir.tenant]
            for init in reversed(fitting):
                self._kept.remove(init)
                if self._keeper.hand_over(init, heir):
                    return init
                self._let_go(init)
        spares = self._spare_inits.setdefault(kind, [])
        return spares.pop() if spares else self._inits.start(kind)

    def keep(self, init: Init, pod: Pod) -> bool:
        """Of a pod that is gone: keep it for the next of its tenant's, if that cannot tell it from a new one."""
        if self._keeper is None or self._closing or len(self._kept) >= self._most_kept:
            return False
        init.pods += 1
        renewed = self._keeper.renew(init, pod.hostname)
        if renewed is None:
            return False
        init.tenant = pod.tenant
        pid, renewal = renewed
        self.expect(init.pid, partial(self._lose_kept, init))
        self.expect(pid, partial(self._on_renewed, init, self._keeper, renewal))
        return True

    def _on_renewed(self, init: Init, keeper: reuse.Keeper, renewal: Renewal, status: int) -> None:
        keeper.done(renewal)
        if init.gone:
            return
        if status or self._closing or len(self._kept) >= self._most_kept:
            self._let_go(init)
            return
        init.since = time.monotonic()
        self._kept.append(init)
        if not self._expiring:
            self._expiring = True
            self.later(reuse.IDLE_SECONDS, self._expire)

    def _make_keeper(self) -> reuse.Keeper | None:
        try:
            return None if self._machine is None else reuse.Keeper(self._machine.function)
        except OSError:
            return None

    def _expire(self) -> None:
        """Let go of what has waited for too long."""
        self._expiring = False
        limit = time.monotonic() - reuse.IDLE_SECONDS
        while self._kept and self._kept[0].since <= limit:
            self._let_go(self._kept.pop(0))
        if self._kept:
            self._expiring = True
            self.later(self._kept[0].since - limit, self._expire)

    def _let_go(self, init: Init) -> None:
        self.expect(init.pid, lambda _: init.close())
        init.kill()

    def take_starter(self) -> Child:
        """A process that waits for an app to start; call `starter_done` when it has answered."""
        self._reaper.starting += 1
        return self._spare_starters.take() or self._fork_starter(spare=False)

    def starter_done(self, starter: Child, *, well: bool) -> None:
        """One start has ended. A starter that is `well` waits for the next, a while if there are more than are to be
        spare."""
        self._reaper.started()
        if well and starter.lasts and self._spares and not self._closing:
            self._keep_starter(starter)
            if not self._dismissing:
                self._dismiss()
        else:
            starter.socket.close()
        self._plan_refill()

    def _keep_starter(self, starter: Child) -> None:
        self._spare_starters.add(starter, time.monotonic())
        self.expect(starter.pid, partial(self._lose_starter, starter))

    def _dismiss(self) -> None:
        idle, again = self._spare_starters.expire(time.monotonic())
        for starter in idle:
            self.expect(starter.pid, lambda _: None)
            starter.socket.close()
        self._dismissing = again is not None
        if again is not None:
            self.later(again, self._dismiss)

    def send_event(self, event: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Tell the executor; if it is gone the loop notices by itself."""
        try:
            channel.send_json(self._control, event, fds)
        except OSError:
            self._closing = True

    def forget_sandbox(self, key: str) -> None:
        """The pod is gone, all of it."""
        self._sandboxes.pop(key, None)

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the executor goes; then kill all pods and return."""
        signals = _take_signals()
        self.watch(signals, lambda: self._on_signals(signals))
        self.watch(self._control.fileno(), self._on_request)
        seccomp.warm_up()
        # Objects that exist by now are never collected: their pages stay shared with all children.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._refill()
        self.send_event({"ready": True})
        while not self._closing:
            self._turn()
        self._kill_everything()

    def _turn(self) -> None:
        timeout = -1.0
        if self._timers:
            timeout = max(0.0, self._timers[0][0] - time.monotonic())
        for fd, _ in self._epoll.poll(timeout):
            reader = self._readers.get(fd)
            if reader is not None:
                _guarded(reader)
        while self._timers and self._timers[0][0] <= time.monotonic():
            _guarded(heapq.heappop(self._timers)[2])

    def _on_signals(self, fd: int) -> None:
        """One record each (signalfd(2)); that of many children that have ended is one as well."""
        records = os.read(fd, _RECORD * _SIGNALS_AT_ONCE)
        if signal.SIGTERM in (records[at] for at in range(_SIGNAL_AT, len(records), _RECORD)):
            self._closing = True
        self._reap()

    def _reap(self) -> None:
        if self._reaper.reap():
            self.later(_AGAIN_SECONDS, self._reap)  # after whatever else there is to do

    def _on_request(self) -> None:
        try:
            message, fds = channel.receive_json(self._control)
        except OSError:
            message, fds = None, []
        if message is None:
            self._closing = True
            return
        number = message["id"]

        def answer(reply: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
            self.send_event({"id": number, **reply}, descriptors)

        try:
            self._perform(message, fds, answer)
        except StageError as error:
            answer({"error": str(error)})
        except Exception as error:  # noqa: BLE001 - a request that fails must not end the other pods
            sys.excepthook(*sys.exc_info())
            answer({"error": f"{message.get('do')}: {type(error).__name__}: {error}"})
        finally:
            for fd in fds:
                os.close(fd)

    def _perform(self, message: dict[str, Any], fds: list[int], answer: Answer) -> None:
        do, key = message["do"], message["pod"]
        if do == "run":
            if key in self._sandboxes:
                raise StageError(f"run {key}: this pod runs already")
            sandbox = Sandbox(self, key)
            sandbox.run(answer)
            self._sandboxes[key] = sandbox
            return
        found = self._sandboxes.get(key)
        if found is None:
            raise StageError(f"{do} {key}: this pod does not run")
        if do == "start":
            argv, sockets = (tuple(map(str, message.get(name) or ())) for name in ("argv", "sockets"))
            found.start(message["app"], fds, answer, argv, sockets)
        elif do == "exec":
            found.exec(message, fds, answer)
        elif do == "signal" and "exec" in message:
            found.signal_exec(message["exec"], message["signum"], answer)
        elif do == "signal":
            found.signal(message["app"], message["signum"], answer)
        elif do == "remove":
            found.remove(message["app"], answer)
        elif do == "update":
            found.update(answer)
        elif do == "stop":
            found.stop(answer)
        else:
            raise StageError(f"{do}: no such request")

    # -- children -----------------------------------------------------------------------------------------

    def _fork_starter(self, *, spare: bool) -> Child:
        native, begin = self._machine, self._bare

        def entry(sock: socket.socket) -> None:
            if native is None or begin is None:
                children.starter(sock, host=self._host, last_cap=self._last_cap, spare=spare)
            else:
                worker(sock, native, begin, host=self._host, last_cap=self._last_cap)

        return Child(*children.fork(entry, new_pid_namespace=None, limit=self._limit), native is not None)

    def _plan_refill(self) -> None:
        if not self._refill_planned and self._spares and not (self._once and self._sandboxes):
            self._refill_planned = True
            self.later(_REFILL_SECONDS, self._refill)

    def _refill(self) -> None:
        """Fork ahead of need, one at a time, when nothing else is going on."""
        self._refill_planned = False
        if self._closing:
            return
        if self._reaper.starting and not self._put_off:
            self._put_off = self._refill_planned = True
            self.later(_PUT_OFF_SECONDS, self._refill)
            return
        self._put_off = False
        if len(self._spare_starters) + self._reaper.starting < self._spares:
            self._keep_starter(self._fork_starter(spare=True))
            self._plan_refill()
            return
        for kind, spares in self._spare_inits.items():
            if len(spares) < self._spares:
                init = self._inits.start(kind)
                spares.append(init)
                self.expect(init.pid, partial(self._lose_init, init))
                self._plan_refill()
                return

    # A spare that dies is forgotten: the one forked in need will say what is wrong.

    def _lose_starter(self, starter: Child, _status: int) -> None:
        if self._spare_starters.discard(starter):
            starter.socket.close()

    def _lose_init(self, init: Init, _status: int) -> None:
        if init in self._spare_inits[init.kind]:
            self._spare_inits[init.kind].remove(init)
            init.close()

    def _lose_kept(self, init: Init, _status: int) -> None:
        if init in self._kept:
            self._kept.remove(init)
        init.close()

    def _kill_everything(self) -> None:
        self.unwatch(self._control.fileno())  # what is asked for from here on would live on
        for starter in self._spare_starters:
            self.expect(starter.pid, lambda _: None)
            starter.socket.close()
        idle, self._kept = self._kept, []
        for init in [*idle, *(one for spares in self._spare_inits.values() for one in spares)]:
            self._let_go(init)
        for sandbox in list(self._sandboxes.values()):
            try:
                sandbox.stop(lambda *_: None)
            except StageError:
                pass  # it is being stopped already
        deadline = time.monotonic() + _END_SECONDS
        self.later(_END_SECONDS, lambda: None)  # for a turn waits until something happens
        while (self._sandboxes or self._reaper.expected) and time.monotonic() < deadline:
            self._turn()
        self.cgroups.remove()
        if self._sandboxes or self._reaper.expected:
            left = [*self._sandboxes, *map(str, self._reaper.expected)]
            sys.stderr.write(f"stage1: the launcher ends without having seen the end of {', '.join(left)}\n")


def _take_signals() -> int:
    """Where the signals are read that are of interest: nothing is interrupted by them. Forks let them in again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in children.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, children.SIGNALS)
    return syscalls.signalfd(children.SIGNALS)


def _guarded(action: Callable[[], None]) -> None:
    """What goes wrong with one pod is shouted about, and is not the end of the others."""
    try:
        action()
    except Exception:  # noqa: BLE001 - top of the loop
        sys.excepthook(*sys.exc_info())


def collect(layout: cgroups.Layout, seconds: float = 2.0) -> list[str]:
    """Kill and remove what pods of launchers that were killed have left; returns the directories.

    Live pods of other launchers in the same cgroup are told by the lock that theirs hold. Raises OSError, CgroupError.
    """
    for root in layout.roots:
        if layout.version == 2:
            os.makedirs(root, exist_ok=True)
    lock = cgroups.Lock(layout, exclusive=True)
    try:
        found = cgroups.leftovers(layout)
    finally:
        lock.release()
    try:
        left = list(found)
        deadline = time.monotonic() + seconds
        while left := [path for path in left if not _collected(path, layout.version)]:
            if time.monotonic() > deadline:
                sys.stderr.write(f"stage1: cgroups still in use: {', '.join(left)}\n")
                break
            time.sleep(0.005)
        return list(found)
    finally:
        for fd in found.values():
            os.close(fd)


def _collected(directory: str, version: int) -> bool:
    return cgroups.kill_tree(directory, version) and cgroups.remove_tree(directory)
