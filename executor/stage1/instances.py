"""What runs in a pod, as the launcher sees it: the apps' main processes, and what is executed into apps besides."""

import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from executor.stage1 import plan, reading
from executor.stage1.manifest import App, Pod
from executor.stage1.ops import StageError
from executor.stage1.process import Process

if TYPE_CHECKING:
    from executor.stage1.launcher import Launcher


class Instance(NamedTuple):
    """A running app. `pid` is -1 when it has been reaped: then that may be somebody else's."""

    pid: int
    oom_kills_before: int = 0

    def signal(self, number: int) -> None:
        """Signal the process; no error when it has ended. Raises StageError."""
        try:
            if self.pid >= 0:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # its exit is on the way to us
        except OSError as error:
            raise StageError(f"signal {number}: {reading.text(error)}") from None


class Execs:
    """The programs that are executed into the apps of a pod. apps: those that run."""

    def __init__(self, launcher: "Launcher", pod: str, apps: Mapping[str, Instance]) -> None:
        self._launcher = launcher
        self._pod = pod
        self._apps = apps
        self._running: dict[int, Instance] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._running)

    def next(self) -> int:
        """A number for one."""
        self._count += 1
        return self._count

    def started(self, app: str, number: int, pid: int, on_end: Callable[[], None]) -> None:
        """It has been executed; called before anybody is told, so that its exit is not missed. on_end: called then.

        That is not kept here: in the launcher, which collects no garbage, nothing may refer to itself.
        """

        def on_exit(status: int) -> None:
            self._tell_exit(app, number, status)
            on_end()

        self._running[number] = Instance(pid)
        self._launcher.expect(pid, on_exit)
        if app not in self._apps:  # the app has ended meanwhile, and takes it along
            self.signal(number, signal.SIGKILL)

    def _tell_exit(self, app: str, number: int, status: int) -> None:
        del self._running[number]
        code = os.waitstatus_to_exitcode(status)
        self._launcher.send_event(
            {
                "event": "exec-exit",
                "pod": self._pod,
                "app": app,
                "exec": number,
                "code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
            }
        )

    def signal(self, number: int, signum: int) -> None:
        """One that has ended is no error. Raises StageError."""
        if number in self._running:
            self._running[number].signal(signum)


def executed(pod: Pod, app: App, request: Mapping[str, Any]) -> Process:
    """One more process of an app's: as its main one is, but for what is asked for. Raises StageError.

    request: argv, and optionally environment (added to the app's) and directory.
    """
    argv = tuple(map(str, request["argv"]))
    if not argv:
        raise StageError(f"exec in {app.name}: there is nothing to run")
    process = plan.app_process(pod, app)
    return process._replace(
        argv=argv,
        environment=(*process.environment, *(request.get("environment") or {}).items()),
        directory=request.get("directory") or process.directory,
        own_proc="",  # that of the app's process, which it enters
    )
