"""The streams of an app and whoever listens: pipes, without pods."""

import asyncio
import os

import pytest

from executor.rkt import mux
from executor.rkt.appstreams import PlainLog, modes_of, plain_log
from executor.rkt.flags import Failure


async def read(fd, count):
    """So many bytes, or all until the end."""
    os.set_blocking(fd, False)
    data = b""
    async with asyncio.timeout(60):
        while len(data) < count:
            try:
                piece = os.read(fd, 1 << 16)
            except BlockingIOError:
                await _readable(fd)
                continue
            if not piece:
                break
            data += piece
    return data


async def _readable(fd):
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def write(fd, data):
    """As an app does: it waits when nobody takes it."""
    await asyncio.to_thread(os.write, fd, data)


class App:
    """The app's ends of a Mux's streams."""

    def __init__(self, log=None):
        self.stdin, theirs = os.pipe()
        out, self.stdout = os.pipe()
        self.mux = mux.Mux(stdin=theirs, outputs={"stdout": out}, log=log)

    async def end(self):
        os.close(self.stdout)
        await self.mux.finish()
        os.close(self.stdin)


async def test_all_hear_and_all_type():
    app = App()
    assert app.mux.endpoints == ["stdin", "stdout"]
    one, two = (app.mux.attach(["stdin", "stdout"]) for _ in range(2))
    await write(app.stdout, b"said")
    assert await read(one.fds["stdout"], 4) == await read(two.fds["stdout"], 4) == b"said"
    for attached, word in ((one, b"a"), (two, b"b")):
        os.write(attached.fds["stdin"], word)
        assert await read(app.stdin, 1) == word
    two.close()
    await write(app.stdout, b"more")
    await app.end()
    assert await read(one.fds["stdout"], 100) == b"more"
    assert await read(two.fds["stdout"], 100) == b""
    for fd in (*one.fds.values(), *two.fds.values()):
        os.close(fd)


async def test_what_there_is_not():
    app = App()
    with pytest.raises(ValueError, match="no stderr to attach to, but stdin, stdout"):
        app.mux.attach(["stderr"])
    with pytest.raises(ValueError, match="no tty-in"):
        app.mux.attach(["tty-in"])
    await app.end()
    late = app.mux.attach(["stdout"])
    assert await read(late.fds["stdout"], 1) == b""
    os.close(late.fds["stdout"])


async def test_one_who_does_not_read_is_waited_for_and_then_let_go(monkeypatch):
    monkeypatch.setattr(mux, "_PATIENCE_SECONDS", 0.5)
    app = App()
    lazy, keen = (app.mux.attach(["stdout"]) for _ in range(2))
    data = os.urandom(3 << 20)
    writing = asyncio.create_task(write(app.stdout, data))
    assert await read(keen.fds["stdout"], len(data)) == data
    await writing
    # What it has got before is not lost to it.
    assert data.startswith(await read(lazy.fds["stdout"], len(data)))
    await app.end()
    for attached in (lazy, keen):
        os.close(attached.fds["stdout"])


async def test_one_who_is_slow_gets_it_all():
    app = App()
    slow = app.mux.attach(["stdout"])
    data = os.urandom(1 << 20)
    writing = asyncio.create_task(write(app.stdout, data))
    await asyncio.sleep(0)
    assert await read(slow.fds["stdout"], len(data)) == data
    await writing
    await app.end()
    os.close(slow.fds["stdout"])


async def test_a_log_has_what_nobody_hears(tmp_path):
    log = PlainLog(tmp_path / "log")
    app = App(log)
    await write(app.stdout, b"one\ntw")
    await write(app.stdout, b"o\nrest")
    await app.end()
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["stdout one", "stdout two", "stdout rest"]


NOTES = {
    "coreos.com/rkt/experiment/logmode": "k8s-plain",
    "coreos.com/rkt/experiment/kubernetes-log-dir": "/nope",
}


@pytest.mark.parametrize(
    ("pod", "path", "why"),
    [
        ({"coreos.com/rkt/experiment/logmode": "odd"}, "x", "'odd' is not k8s-plain"),
        (NOTES, "", "kubernetes-log-path is needed"),
        (NOTES, "../x", "is not a name in the directory"),
        (NOTES, "x", "log /nope/x: No such file"),
        ({**NOTES, "coreos.com/rkt/experiment/kubernetes-log-dir": "rel"}, "x", "not an absolute path"),
    ],
)
def test_logs_that_cannot_be(pod, path, why):
    def noted(notes):
        return {"name": "a", "annotations": [{"name": k, "value": v} for k, v in notes.items() if v]}

    with pytest.raises(Failure, match=why):
        plain_log(noted(pod), noted({"coreos.com/rkt/experiment/kubernetes-log-path": path}))


def test_modes():
    def entry(**modes):
        notes = [{"name": f"coreos.com/rkt/stage2/{key}", "value": value} for key, value in modes.items()]
        return {"name": "a", "annotations": notes}

    assert modes_of(entry()) == {"stdin": "null", "stdout": "log", "stderr": "log"}
    assert modes_of(entry(stdin="stream"))["stdin"] == "stream"
    for wrong in ({"stdin": "log"}, {"stdin": "tty"}, {"stdout": "odd"}):
        with pytest.raises(Failure):
            modes_of(entry(**wrong))
