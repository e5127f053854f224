"""`enter`: one more program in an app that runs; the process that runs the pod starts it, as the app (exec is run)."""

import asyncio
import os
import socket

from executor.rkt import control
from executor.rkt.common import Globals, need_root, words
from executor.rkt.flags import Failure
from executor.rkt.pods import Seen, State, find
from executor.rkt.streams import Output, Relay
from executor.stage1 import channel

DEFAULT_COMMAND = "/bin/bash"


def main(g: Globals, args: list[str]) -> int:
    """`enter [--app=NAME] UUID [COMMAND …]`. Ends as the command does."""
    flags = g.flags("[flags] UUID [COMMAND …]")
    flags.text("app", "", "which app, of a pod with several")
    found = words(flags, args, rest=True)
    need_root()
    if not found:
        raise Failure("name a pod by its UUID")
    pod = find(g.pods, found[0])
    if pod.state is not State.RUNNING:
        raise Failure(f'pod "{pod.uuid}" isn\'t currently running')
    app = flags.values["app"] or only_app(pod)
    if app not in [one["name"] for one in pod.apps()]:
        raise Failure(f'enter failed: pod "{pod.uuid}" has no app {app!r}')
    argv = found[1:]
    if not argv:
        g.say(f'no command specified, assuming "{DEFAULT_COMMAND}"')
        argv = [DEFAULT_COMMAND]
    with control.connect(pod.path) as sock:
        return asyncio.run(_enter(sock, app, argv))


def only_app(pod: Seen) -> str:
    """Failure when there is none, or are several."""
    names = [app["name"] for app in pod.apps()]
    if not names:
        raise Failure("pod contains no apps")
    if len(names) != 1:
        raise Failure("pod contains multiple apps, name one with --app: " + ", ".join(names))
    return str(names[0])


async def _enter(sock: socket.socket, app: str, argv: list[str]) -> int:
    request = {"do": "exec", "app": app, "argv": argv}
    relay = output = None
    if os.isatty(0):
        environment = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
        channel.send_json(sock, {**request, "environment": environment})
        _, fds = await _answer(sock)
        relay = Relay(fds[0])
    else:
        output = Output()
        channel.send_json(sock, request, (0, *output.fds))
        output.close_ours()
        await _answer(sock)
    try:
        ended, _ = await _answer(sock)
    finally:
        if relay is not None:
            await relay.close()
        if output is not None:
            await output.finish()
    return int(ended["code"])


async def _answer(sock: socket.socket) -> tuple[dict[str, int], list[int]]:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())
    try:
        message, fds = channel.receive_json(sock)
    except OSError:
        message, fds = None, []
    if message is None:
        raise Failure("enter failed: the pod has ended")
    if "error" in message:
        raise Failure(f"enter failed: {message['error']}")
    return message, fds
