"""Streams of apps that can be attached to, and event handlers; real pods."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from executor.rkt.attach import parse_mode
from executor.rkt.flags import Failure
from executor.stage0 import acmanifest, build

ON = {"RKT_EXPERIMENT_ATTACH": "true"}
STREAMS = ("--stdin=stream", "--stdout=stream", "--stderr=stream")
TTY = ("--stdin=tty", "--stdout=tty", "--stderr=tty")


def test_modes():
    assert parse_mode("auto") == parse_mode("list") == []
    assert parse_mode("stdin,stdout") == ["stdin", "stdout"]
    assert parse_mode("tty") == ["tty-in", "tty-out"]
    for wrong in ("stdin,tty", "stdin,", "x"):
        with pytest.raises(Failure, match="invalid attach mode"):
            parse_mode(wrong)


@pytest.fixture
def on(monkeypatch):
    """rkt's experiment."""
    monkeypatch.setenv("RKT_EXPERIMENT_ATTACH", "true")


@pytest.fixture
def shell(box, on):
    """A pod whose app reads commands from whoever attaches."""

    def start(*flags):
        return box.running("example.com/box", *flags, "--exec=/bin/sh")

    return start


def attach(box, *args, stdin=subprocess.PIPE):
    process = subprocess.Popen(
        box.command("attach", *args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    box.started.append(process)
    return process


def test_only_as_an_experiment(fetched):
    for args in (("attach", "x"), ("run", "example.com/box", "--stdin=stream")):
        done = fetched(*args)
        assert (done.code, "RKT_EXPERIMENT_ATTACH=true" in done.err) == (254, True)


@pytest.mark.root
def test_streams(box, shell):
    process, uuid = shell(*STREAMS)
    assert box.good("attach", "--mode=list", uuid).lines == ["stdin", "stdout", "stderr"]
    first, second = attach(box, uuid), attach(box, "--app=box", "--mode=stdin,stdout", uuid)
    # Both listen when both have been heard.
    for one, word in ((first, "one"), (second, "two")):
        one.stdin.write(f"echo {word}\n")
        one.stdin.flush()
    assert {first.stdout.readline(), second.stdout.readline()} & {"one\n", "two\n"}
    second.send_signal(signal.SIGTERM)  # it lets go; nobody else notices
    second.communicate()
    assert second.returncode == 0
    first.stdin.write("tty; echo err >&2; echo end; exit 4\n")
    first.stdin.flush()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out.splitlines()[-2:], err) == (0, ["not a tty", "end"], "err\n")
    assert process.wait(60) == 4
    assert process.stdout.read() == ""


@pytest.mark.root
def test_the_end_of_what_is_typed_is_not_the_apps(box, shell):
    _, uuid = shell(*STREAMS)
    for word in ("one", "two"):
        reading, writing = os.pipe()
        os.write(writing, f"echo {word}\n".encode())
        os.close(writing)
        one = attach(box, "--mode=stdin,stdout", uuid, stdin=reading)
        os.close(reading)
        assert one.stdout.readline() == f"{word}\n"
        one.send_signal(signal.SIGINT)
        assert one.wait(60) == 0


@pytest.mark.root
def test_some_streams(box, shell):
    """What is not attachable goes where it always goes."""
    process, uuid = shell("--stdin=stream", "--stdout=log", "--stderr=null")
    assert box.good("attach", "--mode=list", uuid).lines == ["stdin"]
    done = box("attach", "--mode=stdout", uuid)
    assert (done.code, "has no stdout to attach to, but stdin" in done.err) == (254, True)
    box.good("attach", uuid, stdin="echo out; echo err >&2; exit\n")
    out, err = process.communicate(timeout=60)
    assert (out, "err" in err) == ("out\n", False)


@pytest.mark.root
def test_what_cannot_be_attached_to(box, on):
    _, uuid = box.running("example.com/box", "--exec=/bin/sleep", "--", "1000")
    done = box("attach", uuid)
    assert (done.code, "there is nothing to attach to" in done.err) == (254, True)
    done = box("run", "--net=none", "example.com/box", "--stdin=tty")
    assert (done.code, "--stdin=tty --stdout=tty --stderr=tty" in done.err) == (254, True)
    done = box("run", "--net=none", "--interactive", "example.com/box", "--stdout=null")
    assert (done.code, "exclude one another" in done.err) == (254, True)
    assert "invalid stdout mode" in box("run", "example.com/box", "--stdout=interactive").err


@pytest.mark.root
def test_a_terminal(box, shell):
    """Of the pod's own; ours shows it, and has its size; ^C is ours, and lets go."""
    process, uuid = shell(*TTY)
    assert box.good("attach", "--mode=list", uuid).lines == ["tty"]
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=theirs, check=True)
    command = ["setsid", "--ctty", "--wait", sys.executable, *box.command("attach", uuid)[4:]]
    one = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""

    def until(word):
        nonlocal text
        while word not in text:
            text += os.read(ours, 4096)
        text = b""

    os.write(ours, b"tty; stty size\n")
    until(b"/dev/pts/0\r\n33 101")
    os.write(ours, b"\x03")
    assert one.wait(60) == 0
    assert process.poll() is None
    os.close(ours)
    # Without a terminal of our own, too.
    done = box.good("attach", uuid, stdin="exit 5\n")
    assert "exit 5" in done.out
    assert process.wait(60) == 5


@pytest.mark.root
def test_who_does_not_read_holds_nobody_up_for_ever(box, shell):
    """It slows the app down; when it goes, the app goes on."""
    process, uuid = shell("--stdin=stream", "--stdout=stream")
    lazy = attach(box, uuid)
    lazy.stdin.write("cat /dev/zero | head -c 9000000; exit 3\n")
    lazy.stdin.flush()
    assert lazy.stdout.buffer.read(1) == b"\0"
    lazy.kill()
    assert process.wait(60) == 3


@pytest.mark.root
def test_a_pod_that_was_prepared(box, on):
    uuid = box.good("prepare", "example.com/box", *STREAMS, "--exec=/bin/cat").out.strip()
    box.start("run-prepared", "--net=none", uuid)
    box.good("status", "--wait-ready=20s", uuid)
    one = attach(box, uuid)
    one.stdin.write("word\n")
    one.stdin.flush()
    assert one.stdout.readline() == "word\n"


# -- event handlers -------------------------------------------------------------------------------------------


@pytest.fixture
def handled(rkt, images):
    """Run an image with these event handlers."""

    def fetch(before, after, app):
        options = build.Options(entrypoint=("/bin/sh", "-c", app), compression="none")
        manifest = acmanifest.manifest_for("example.com/handled", options)
        manifest["app"]["eventHandlers"] = [
            {"name": name, "exec": ["/bin/sh", "-c", script]}
            for name, script in (("pre-start", before), ("post-stop", after)) if script
        ]  # fmt: skip
        build.build_aci(images.rootfs, rkt.base / "handled.aci", manifest, options, "none")
        rkt.good("fetch", rkt.base / "handled.aci")
        return "example.com/handled"

    return fetch


@pytest.mark.root
def test_event_handlers(rkt, handled):
    """As the app, before and after it; the code is the app's."""
    name = handled("echo before $AC_APP_NAME; touch /made", "echo after; exit 9", "ls /made; exit 3")
    done = rkt("run", "--net=none", name)
    assert (done.lines, done.code) == (["before handled", "/made", "after"], 3)
    assert "post-stop handler ended with 9" in done.err
    uuid = rkt.good("list", "--full", "--no-legend").out.split()[0]
    assert "app-handled=3" in rkt.good("status", uuid).lines


@pytest.mark.root
def test_an_app_whose_handler_fails_is_not_started(rkt, handled):
    done = rkt("run", "--net=none", handled("exit 6", "", "echo never"))
    assert (done.code, done.out) == (6, "")
    assert "pre-start handler ended with 6" in done.err


@pytest.mark.root
def test_a_pod_that_is_stopped_before_it_starts(rkt, handled):
    process = rkt.start("run", "--net=none", handled("echo begun; exec sleep 1000", "", "echo never"))
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 0
