"""`kubectl exec` and `kubectl attach`: a process in a running app, or the app itself, for a client."""

import asyncio
import json
import logging
import os
import signal
from typing import Any, Final

from executor.pods import fds
from executor.pods.console import Console
from executor.pods.handlers import Place
from executor.pods.launcher import Exec, LaunchError
from executor.pods.logs import LogWriter
from executor.server.sessions import Session, Wanted

log = logging.getLogger(__name__)

BEHIND_LIMIT: Final = 8 << 20
"""Bytes that a client who is attached may be behind."""


def success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def failure(message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": message}


def exit_status(code: int) -> dict[str, Any]:
    """As the kubelet tells it (remotecommand.NonZeroExitCodeReason)."""
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


# --- exec ------------------------------------------------------------------------------------------------------------


async def run(session: Session, place: Place, argv: list[str], wanted: Wanted) -> None:
    """Until the process has ended, or the client has gone: then the process is killed."""
    ours: dict[str, int] = {}
    try:
        process = await _start(place, argv, wanted, ours)
    except LaunchError as error:
        await session.finish(failure(f"error executing command in container: {error}"))
        return
    try:
        console = Console(ours.pop("stdin", -1), terminal=wanted.tty)
        ended: asyncio.Future[None] = asyncio.ensure_future(_wait(process))
        outputs = [
            asyncio.ensure_future(_output(session, name if getattr(wanted, name) else "", fd, ended))
            for name, fd in ours.items()
        ]
        inputs = asyncio.ensure_future(_input(session, console, once=True))
        gone = asyncio.gather(ended, *outputs)
        try:
            await asyncio.wait((gone, inputs), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                await gone
                code, signum = process.ended.result()
                await session.finish(exit_status(code if code is not None else 128 + (signum or 9)))
        finally:
            for task in (*outputs, inputs, ended):
                task.cancel()
            await asyncio.wait((*outputs, inputs, ended))
            gone.cancel()
            console.close()
    finally:
        for fd in ours.values():
            os.close(fd)
        await process.signal(signal.SIGKILL)


async def _start(place: Place, argv: list[str], wanted: Wanted, ours: dict[str, int]) -> Exec:
    """Start it; our ends of its streams go to `ours`, non-blocking."""
    if wanted.tty:
        process = await place.sandbox.exec(place.app, argv, environment={"TERM": "xterm"})
        if process.terminal is None:
            raise LaunchError("there is no terminal")
        ours["stdin"], ours["stdout"] = process.terminal, os.dup(process.terminal)
        os.set_blocking(process.terminal, False)
        return process
    theirs: dict[str, int] = {}
    try:
        for name in ("stdin", "stdout", "stderr"):
            if name == "stdin" and not wanted.stdin:
                continue
            reading, writing = fds.pipe()
            theirs[name], ours[name] = (reading, writing) if name == "stdin" else (writing, reading)
            os.set_blocking(ours[name], False)
        return await place.sandbox.exec(place.app, argv, streams=tuple(theirs.values()))
    except BaseException:
        for fd in ours.values():
            os.close(fd)
        ours.clear()
        raise
    finally:
        for fd in theirs.values():
            os.close(fd)


async def _wait(process: Exec) -> None:
    await asyncio.shield(process.ended)


async def _output(session: Session, name: str, fd: int, ended: "asyncio.Future[None]") -> None:
    """To its end; what is left in the background by a process that has ended is not waited for. name "": nobody wants
    it."""
    while True:
        data = fds.read_now(fd)
        if data:
            if name:
                await session.send(name, data)
        elif data is not None or ended.done():
            return
        else:
            await fds.readable(fd, ended)


async def _input(session: Session, console: Console, *, once: bool) -> None:
    """Until the client has gone. once: the end of its input is the end of the app's, too."""
    while (news := await session.receive()) is not None:
        channel, data = news
        if channel == "resize" and data:
            _resize(console, data)
        elif channel == "stdin" and data:
            await console.write(data)
        elif channel == "stdin" and once:
            console.end_input()


def _resize(console: Console, data: bytes) -> None:
    try:
        size = json.loads(data)
        console.resize(int(size["Width"]), int(size["Height"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        log.info("the size of a terminal is ignored: %r: %r", data[:100], error)
    except OSError as error:
        log.info("a terminal takes no size: %s", error)


# --- attach ----------------------------------------------------------------------------------------------------------


async def attach(
    session: Session, writer: LogWriter, console: Console, wanted: Wanted, *, once: bool
) -> None:
    """Until the app has ended, or the client has gone. once: the app's input ends when this client's does."""
    news: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    behind = 0

    def tap(stream: str, data: bytes) -> None:
        nonlocal behind
        if not data or getattr(wanted, stream):
            behind += len(data)
            news.put_nowait((stream, data))

    async def outputs() -> None:
        nonlocal behind
        while True:
            stream, data = await news.get()
            if not data:
                await session.finish(success())
                return
            if behind > BEHIND_LIMIT:
                await session.finish(failure("the client reads more slowly than the container writes"))
                return
            behind -= len(data)
            await session.send(stream, data)

    writer.taps.add(tap)
    sending = asyncio.ensure_future(outputs())
    receiving = asyncio.ensure_future(_input(session, console if wanted.stdin else Console(), once=once))
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        writer.taps.discard(tap)
        for task in (sending, receiving):
            task.cancel()
        await asyncio.wait((sending, receiving))
        if once and wanted.stdin:
            console.end_input()
    if not sending.cancelled() and (error := sending.exception()) is not None:
        raise error
