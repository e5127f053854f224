"""Pods that are there: prepared, looked at, entered, stopped, removed; and what kills in between cannot break."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from executor.pods.poddir import Phase, PodDir, PodDirs
from executor.rkt import end
from executor.rkt.cli import main
from executor.rkt.flags import Failure
from executor.rkt.pods import State, find, walk
from executor.stage1 import cgroups

SLEEP = ("--exec=/bin/sleep", "--", "1000")


@pytest.fixture
def dirs(tmp_path):
    made = PodDirs(tmp_path / "pods")
    made.open()
    return made


@pytest.mark.parametrize(
    ("phase", "locked", "unlocked"),
    [
        (Phase.EMBRYO, State.EMBRYO, State.EMBRYO),
        (Phase.PREPARE, State.PREPARING, State.ABORTED),
        (Phase.PREPARED, State.PREPARED, State.PREPARED),
        (Phase.RUN, State.RUNNING, State.EXITED),
        (Phase.EXITED, State.EXITED_DELETING, State.EXITED_GARBAGE),
        (Phase.GARBAGE, State.DELETING, State.GARBAGE),
    ],
)
def test_the_state_is_directory_and_lock(dirs, phase, locked, unlocked):
    pod = dirs.create("u")
    if phase is not Phase.EMBRYO:
        pod.move(phase)
    assert find(dirs.root, "u").state is locked
    os.close(pod.lock)
    assert find(dirs.root, "u").state is unlocked
    assert [seen.state for seen in walk(dirs.root)] == [unlocked]


def test_pods_are_found_by_what_is_theirs_alone(dirs):
    pods = [dirs.create(name) for name in ("abc1", "abc2", "x", "xy")]
    assert find(dirs.root, "abc1").uuid == "abc1"
    assert find(dirs.root, "x").uuid == "x"
    for text, message in (
        ("abc", "ambiguous"),
        ("nope", "no matches found"),
        ("", "UUID cannot be empty"),
        ("..", "not a pod's"),
    ):
        with pytest.raises(Failure, match=message):
            find(dirs.root, text)
    for pod in pods:
        pod.remove()


def test_a_directory_is_taken_over_once(dirs):
    os.close(dirs.create("u").lock)
    pod = PodDir(dirs.root, "u", Phase.EMBRYO)
    with pytest.raises(BlockingIOError):
        PodDir(dirs.root, "u", Phase.EMBRYO)
    with pytest.raises(FileNotFoundError):
        PodDir(dirs.root, "u", Phase.RUN)
    pod.remove()


def test_executors_leave_pods_of_rkt_alone(dirs):
    pod = dirs.create("u")
    (pod.path / "pod-created").touch()
    os.close(pod.lock)
    assert dirs.collect() == []


# -- real ones


@pytest.mark.root
def test_prepare_and_run(box):
    uuid = box.good(
        "prepare", "--quiet", "example.com/box", "--user-label=a=b", "--exec=/bin/hostname"
    ).out.strip()
    assert box.good("status", uuid).lines[0] == "state=prepared"
    (row,) = box.good("list", "--format=json").json
    assert (row["name"], row["state"], row["app_names"]) == (uuid, "prepared", ["box"])
    assert (row["apps"][0]["state"], row["apps"][0]["user_labels"]) == ("created", {"a": "b"})
    assert "started_at" not in row
    done = box.good("run-prepared", "--net=none", "--hostname=h", uuid[:8])
    assert done.out == "h\n"
    assert "is not prepared" in box("run-prepared", uuid).err
    (row,) = box.good("list", "--format=json").json
    app = row["apps"][0]
    assert (row["state"], app["state"], app["exit_code"]) == ("exited", "exited", 0)
    assert app["created_at"] <= app["started_at"] <= app["finished_at"]
    assert row["created_at"] == app["created_at"] // 10**9
    assert json.loads(box.good("cat-manifest", uuid).out)["apps"][0]["app"]["exec"] == ["/bin/hostname"]


@pytest.mark.root
def test_lists(box):
    box.good("prepare", "example.com/box", "--name=one", "example.com/box", "--name=two")
    heads, one, two = box.good("list").lines
    assert heads.split("\t")[0] == "UUID"
    assert [cell for cell in one.split("\t") if cell][1:4] == ["one", "example.com/box:1.0", "prepared"]
    assert [cell for cell in two.split("\t") if cell] == ["two", "example.com/box:1.0"]
    full = box.good("list", "--full", "--no-legend").lines[0].split("\t")
    assert len(full[0]) == 36
    assert any(cell.startswith("sha512-") and len(cell) == 19 for cell in full)


@pytest.mark.root
def test_images_of_prepared_pods_are_kept(box):
    uuid = box.good("prepare", "--quiet", "example.com/box").out.strip()
    assert box("image", "rm", "example.com/box").code == 254
    box.good("image", "gc", "--grace-period=0s")
    assert box.good("run-prepared", "--net=none", uuid).out == "hello\n"
    box.good("image", "gc", "--grace-period=0s")
    assert box.good("image", "list", "--no-legend").out == ""


@pytest.mark.root
def test_enter_is_the_app(box):
    process, uuid = box.running(
        "example.com/box",
        "--user=app",
        "--environment=X=y",
        "--working-dir=/tmp",
        "--caps-retain=CAP_KILL",
        *SLEEP,
    )
    done = box(
        "enter",
        uuid,
        "/bin/sh",
        "-c",
        'cat; id -u; echo "$X $PWD"; cat /proc/self/status; exit 9',
        stdin="in\n",
    )
    assert done.code == 9, done.err
    assert done.lines[:3] == ["in", "1234", "y /tmp"]
    fields = {line.partition(":")[0]: line for line in done.lines[3:]}
    status = next(s for s in map(_sleeper, os.listdir("/proc")) if s and uuid in s)
    wanted = {line.partition(":")[0]: line.strip() for line in status.splitlines()}
    for name in ("CapBnd", "CapEff", "Seccomp", "NoNewPrivs"):
        assert fields[name] == wanted[name]
    assert "enter failed: exec /nope" in box("enter", uuid, "/nope").err
    assert "has no app 'x'" in box("enter", "--app=x", uuid, "/bin/true").err
    done = box("enter", uuid)
    assert (done.code, 'no command specified, assuming "/bin/bash"' in done.err) == (254, True)
    process.terminate()
    process.wait()
    assert "isn't currently running" in box("enter", uuid, "/bin/true").err


def _sleeper(pid):
    """Status and cgroups of a process that is the app's; "" for others."""
    place = Path("/proc", pid)
    try:
        if (place / "cmdline").read_bytes() == b"/bin/sleep\x001000\x00":
            return (place / "status").read_text() + (place / "cgroup").read_text()
    except OSError:
        pass  # no process, or gone meanwhile
    return ""


@pytest.mark.root
def test_whoever_enters_takes_the_program_along(box):
    process, uuid = box.running("example.com/box", *SLEEP)
    entered = subprocess.Popen(
        box.command("enter", uuid, "/bin/sh", "-c", "echo here; exec sleep 999"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert entered.stdout.readline() == "here\n"
    entered.kill()
    # Its end of the pipe is closed when the program is dead.
    assert entered.communicate(timeout=60)[0] == ""
    process.terminate()
    process.wait()


@pytest.mark.root
def test_stop(box):
    process, uuid = box.running("example.com/box", *SLEEP)
    assert "is currently running" in box("rm", uuid).err
    waiting = box.start("status", "--wait", uuid)
    assert box.good("stop", uuid).out == f'"{uuid}"\n'
    assert process.wait(60) == 0
    assert waiting.communicate(timeout=60)[0].startswith("state=exited\n")
    assert box.good("stop", uuid).out == f'pod "{uuid}" is already stopped\n'
    prepared = box.good("prepare", "--quiet", "example.com/box").out.strip()
    done = box("stop", prepared, "nope")
    assert (done.code, "failed to stop 2 pod(s)" in done.err) == (254, True)


@pytest.mark.root
def test_stop_with_force(box, traces):
    script = "trap '' TERM; while :; do sleep 0.05; done"
    process, uuid = box.running("example.com/box", "--exec=/bin/sh", "--", "-c", script)
    box.good("stop", "--force", uuid)
    assert process.wait(60) == 0
    process, uuid = box.running("example.com/box", *SLEEP)
    process.send_signal(signal.SIGSTOP)  # whoever should answer does not
    box.good("stop", "--force", uuid)
    assert process.wait(60) == -signal.SIGKILL
    assert traces(uuid) == []


@pytest.mark.root
def test_waiting_has_an_end(box):
    process, uuid = box.running("example.com/box", *SLEEP)
    done = box("status", "--wait=50ms", uuid)
    assert (done.code, "context deadline exceeded" in done.err) == (254, True)
    assert box.good("status", "--wait=false", uuid).lines[0] == "state=running"
    process.terminate()
    process.wait()


@pytest.mark.root
def test_gc(box):
    ended = {box.sh("true").code for _ in range(2)}
    assert ended == {0}
    prepared = box.good("prepare", "--quiet", "example.com/box").out.strip()
    process, running = box.running("example.com/box", *SLEEP)
    box.good("gc", "--mark-only")
    assert sorted(row["state"] for row in box.good("list", "--format=json").json) == [
        "exited garbage", "exited garbage", "prepared", "running",
    ]  # fmt: skip
    assert "still within grace period (30m)" in box.good("gc").err
    assert box.good("gc", "--grace-period=0s").out.count("Garbage collecting pod") == 2
    assert sorted(row["name"] for row in box.good("list", "--format=json").json) == sorted(
        [prepared, running]
    )
    box.good("gc", "--expire-prepared=0s")
    assert [row["name"] for row in box.good("list", "--format=json").json] == [running]
    process.terminate()
    process.wait()


def _killed(steps, argv):
    """Run a command that is killed before its next rename, mkdir or removal after so many; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    left = [steps]

    def count(event, _):
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os._exit(main(argv))


@pytest.mark.root
def test_gc_goes_on_where_another_was_killed(dirs, tmp_path):
    """Killed before every single rename and removal, one after the other: the next one finishes what is left."""
    for name, phase in (("a", Phase.PREPARE), ("b", Phase.PREPARED), ("c", Phase.RUN), ("d", Phase.EXITED)):
        pod = dirs.create(f"{name}-{os.getpid()}")  # cgroups of such names are nobody else's
        pod.move(phase)
        (pod.path / "overlay/app/upper").mkdir(parents=True)
        for file in ("pod", "pod-created", "overlay/app/upper/x"):
            (pod.path / file).touch()
        os.close(pod.lock)
    argv = [f"--dir={tmp_path}", "gc", "--grace-period=0s", "--expire-prepared=0s"]
    killed = 0
    # Some get some steps further, so that both ends of every step are met; some steps change nothing.
    while status := _killed(killed % 8, argv):
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert all(seen.state is not State.RUNNING for seen in walk(dirs.root))
        killed += 1
        assert killed < 500, "no step is ever done"
    assert killed > 20
    assert not any(any(phase.iterdir()) for phase in dirs.root.iterdir())


@pytest.fixture
def elsewhere():
    """The directories of a cgroup of its own in every hierarchy, as another session would have."""
    detected = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    roots = [Path(root, f"test-rkt-{os.getpid()}") for root in detected.roots]
    for root in roots:
        root.mkdir(parents=True)
    yield roots
    for root in roots:
        assert cgroups.remove_tree(str(root))


@pytest.mark.root
@pytest.mark.parametrize("verb", ["gc", "rm"])
def test_cgroups_of_launchers_that_were_killed_elsewhere_go_too(dirs, tmp_path, elsewhere, verb):
    for name in ("killed", "other"):
        pod = dirs.create(f"{name}-{os.getpid()}")
        pod.move(Phase.RUN)
        (pod.path / "pod-created").touch()
        os.close(pod.lock)
    left, held = (f"gantry.{name}-{os.getpid()}" for name in ("killed", "other"))
    with subprocess.Popen(["sleep", "1000"]) as process:
        for root in elsewhere:
            (root / left / "app").mkdir(parents=True)
            (root / left / "app/cgroup.procs").write_text(str(process.pid))
            (root / f"{left}~app").mkdir()
            (root / held).mkdir()
        locks = [os.open(root / held, os.O_RDONLY) for root in elsewhere]
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_SH)
        more = (
            ["--grace-period=0s"]
            if verb == "gc"
            else [left.removeprefix("gantry."), held.removeprefix("gantry.")]
        )
        assert main([f"--dir={tmp_path}", verb, *more]) == 0
        assert process.wait() == -signal.SIGKILL
    assert not [one for root in elsewhere for one in (root / left, root / f"{left}~app") if one.exists()]
    assert all((root / held).exists() for root in elsewhere)
    for lock in locks:
        os.close(lock)


@pytest.mark.root
def test_what_somebody_works_on_is_not_collected(box):
    box.sh("true")
    (row,) = box.good("list", "--format=json").json
    pod = box.data / "pods/run" / row["name"]
    fd = os.open(pod, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    box.good("gc", "--grace-period=0s")
    assert pod.exists()
    os.close(fd)
    box.good("gc", "--grace-period=0s")
    assert not pod.exists()


def test_stop_of_a_pod_that_is_just_ending(rkt, monkeypatch, capsys):
    """Nobody listens there any more, but its lock is held; until `stop` has seen that."""
    pod = rkt.data / "pods/run" / str(uuid4())
    pod.mkdir(parents=True)
    held = [os.open(pod, os.O_RDONLY | os.O_DIRECTORY)]
    fcntl.flock(held[0], fcntl.LOCK_EX)

    def pause(_: float) -> None:
        if held:
            os.close(held.pop())

    monkeypatch.setattr(end, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    assert main([*rkt.flags, "stop", pod.name]) == 0
    assert capsys.readouterr().out == f'"{pod.name}"\n'
    assert not held
