"""An instance of an app: what it writes and reads, how it starts, and the event handlers of its image.

A handler runs in the app's place: as the app, in its root and cgroup (appc spec, ace.md). So the launcher tells of its
end as of the app's.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from executor.pods.console import Console
from executor.pods.fds import pipe
from executor.pods.launcher import AppExit
from executor.pods.logs import LogWriter
from executor.pods.ports import Handling, Sandbox
from executor.pods.sockets import Port, handed

SIGKILL: Final = 9


class Instance:
    """The newest one of an app. starting: until the launcher's answer to its start has been handled; an end that is
    told before is `pending`."""

    def __init__(self, app: str, attempt: int, log: Path) -> None:
        self.app = app
        self.attempt = attempt
        self.log = LogWriter(log)
        self.console = Console()
        self.starting = True
        self.pending: AppExit | None = None
        self._handler: asyncio.Future[AppExit] | None = None

    async def start(self, sandbox: Sandbox, *, tty: bool, stdin: bool, ports: Sequence[Port] = ()) -> None:
        """ports: that it finds open. Raises LaunchError or OSError."""
        with handed(ports, sandbox) as sockets:
            await self._start(sandbox, sockets, tty=tty, stdin=stdin)

    async def _start(self, sandbox: Sandbox, sockets: Mapping[str, Any], *, tty: bool, stdin: bool) -> None:
        if tty:
            _, terminal = await sandbox.start_terminal(self.app, **sockets)
            self.console = Console(terminal, terminal=True)
            self.log.adopt(os.dup(terminal))
            return
        ends = [self.log.attach("stdout"), self.log.attach("stderr")]
        try:
            if stdin:
                reading, writing = pipe()
                ends.append(reading)
                self.console = Console(writing)
            await sandbox.start_app(
                self.app, stdin=ends[2] if stdin else None, stdout=ends[0], stderr=ends[1], **sockets
            )
        finally:
            for fd in ends:
                os.close(fd)

    @property
    def handling(self) -> bool:
        """Whether an event handler runs in its place."""
        return self._handler is not None

    async def run_handler(self, sandbox: Handling, argv: Sequence[str], begun: Callable[[], None]) -> int:
        """Its exit code, 128 + N for a signal. begun: called when it runs. Raises LaunchError."""
        ends = [self.log.attach("stdout"), self.log.attach("stderr")]
        self._handler = asyncio.get_running_loop().create_future()
        try:
            await sandbox.start_handler(self.app, argv, stdout=ends[0], stderr=ends[1])
            begun()
            ended = await self._handler
        finally:
            self._handler = None
            for fd in ends:
                os.close(fd)
        return ended.exit_code if ended.exit_code is not None else 128 + (ended.signal or SIGKILL)

    def takes(self, ended: AppExit) -> bool:
        """Whether this end is for itself: that of its handler, or one to be looked at when it has started."""
        if self._handler is not None:
            if not self._handler.done():
                self._handler.set_result(ended)
            return True
        if self.starting:
            self.pending = ended
        return self.starting

    def close(self) -> None:
        """Nobody writes and reads any more. Idempotent."""
        self.log.close()
        self.console.close()
