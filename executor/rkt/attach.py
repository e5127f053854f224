"""`attach`: to the streams, or the terminal, of an app that runs; an experiment of rkt's (RKT_EXPERIMENT_ATTACH=true).

The process that runs the pod hands us pipes, or the pod's side of its terminal; nothing of ours gets into the pod. We
end with the app, or when interrupted; the app goes on.
"""

# ruff: noqa: T201  (a command line prints)

import asyncio
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

from executor.rkt import control
from executor.rkt.apps import experiment
from executor.rkt.common import Globals, need_root, words
from executor.rkt.enter import only_app
from executor.rkt.flags import Failure
from executor.rkt.pods import State, find
from executor.rkt.streams import READ_SIZE, Relay, write_all
from executor.stage1 import channel

_ENDPOINTS = {
    "stdin": ("stdin",),
    "stdout": ("stdout",),
    "stderr": ("stderr",),
    "tty": ("tty-in", "tty-out"),
    "tty-in": ("tty-in",),
    "tty-out": ("tty-out",),
}


def main(g: Globals, args: list[str]) -> int:
    """`attach [--app=NAME] [--mode=auto|list|tty|tty-in|tty-out|stdin,stdout,stderr] UUID`."""
    if not experiment("attach"):
        raise Failure("an experiment of rkt's: set RKT_EXPERIMENT_ATTACH=true")
    need_root()
    flags = g.flags("[flags] UUID")
    flags.text("app", "", "which app, of a pod with several")
    flags.text("mode", "auto", "auto, list, tty, tty-in, tty-out, or some of stdin,stdout,stderr")
    found = words(flags, args)
    if len(found) != 1:
        raise Failure("name a pod by its UUID")
    mode = flags.values["mode"]
    wanted = parse_mode(mode)
    pod = find(g.pods, found[0])
    if pod.state is not State.RUNNING:
        raise Failure(f'pod "{pod.uuid}" isn\'t currently running')
    app = flags.values["app"] or only_app(pod)
    there = control.ask(pod.path, "attach", app=app)["endpoints"]
    if mode == "list":
        print("\n".join(there))
        return 0
    if not wanted:
        wanted = [one for name in there for one in _ENDPOINTS[name]]
    with control.connect(pod.path) as sock:
        return asyncio.run(_attach(sock, app, wanted))


def parse_mode(mode: str) -> list[str]:
    """What to attach to; [] for list, and for auto: everything. Failure."""
    if mode in {"", "auto", "list"}:
        return []
    wanted: list[str] = []
    for name in mode.split(","):
        if name not in _ENDPOINTS:
            raise Failure(f"invalid attach mode: unknown endpoint {name!r}")
        wanted += [one for one in _ENDPOINTS[name] if one not in wanted]
    if len({name.startswith("tty") for name in wanted}) > 1:
        raise Failure(
            f"invalid attach mode: incompatible endpoints {mode!r}, cannot simultaneously attach TTY and streams"
        )
    return wanted


async def _attach(sock: socket.socket, app: str, wanted: list[str]) -> int:
    channel.send_json(sock, {"do": "attach", "app": app, "wanted": wanted})
    answer, received = channel.receive_json(sock)
    if answer is None or "error" in answer:
        raise Failure("the pod has ended" if answer is None else str(answer["error"]))
    fds = dict(zip(answer["endpoints"], received, strict=True))
    sock.setblocking(False)
    over = asyncio.ensure_future(control.readable(sock))
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(
            signum, lambda: None if stopped.done() else stopped.set_result(None)
        )
    relay = None
    outputs = [
        _copied(fds.pop(name), 2 if name == "stderr" else 1)
        for name in ("stdout", "stderr", "tty-out")
        if name in fds and not (name == "tty-out" and "tty-in" in fds and os.isatty(0))
    ]
    if "tty-in" in fds and os.isatty(0):
        relay = Relay(fds.pop("tty-in"), shown=fds.pop("tty-out", -1), interrupt=True)
    for fd in fds.values():
        threading.Thread(target=_type, args=(fd,), daemon=True).start()
    ended = asyncio.ensure_future(_all([over, *outputs]))
    try:
        both: tuple[asyncio.Future[None], ...] = (ended, stopped)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if relay is not None:
            if stopped.done() and not relay.finished.done():
                relay.finished.set_result(None)
            await relay.close()
        sys.stdout.flush()
    return 0


async def _all(futures: list["asyncio.Future[None]"]) -> None:
    await asyncio.wait(futures)


def _copied(fd: int, to: int) -> "asyncio.Future[None]":
    """Copy what comes out of an app; done at its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    os.set_blocking(fd, False)

    def copy() -> None:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        if data:
            write_all(to, data)
            return
        loop.remove_reader(fd)
        os.close(fd)
        done.set_result(None)

    loop.add_reader(fd, copy)
    return done


def _type(fd: int) -> None:
    """Copy our standard input into an app. Its end is not the app's: others may attach."""
    with suppress(OSError):
        while data := os.read(0, READ_SIZE):
            write_all(fd, data)
