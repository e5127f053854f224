"""Stage1 images of others: found as rkt finds them, run, entered, stopped and collected by their entrypoints."""

import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest

from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.rkt.stage1 import IMAGES, Choice, Place, choose
from executor.stage1 import userns


def sh(script: str) -> list[str]:
    return ["example.com/box", "--exec=/bin/sh", "--", "-c", script]


@pytest.mark.root
def test_ports_and_sockets_are_its_own_to_use(box, stage1, stage1_run):
    run = stage1_run.replace(
        "exec chroot", 'readlink /proc/self/fd/3 /proc/self/fd/4; echo "$LISTEN_FDS"; exec chroot'
    )
    own = stage1(run=f'[ "$LISTEN_PID" = $$ ] || exit 9; {run}')
    flags = ["--port=web:::1:8080", "--port=ssh:22", f"--stage1-path={own}"]
    argv = box.command("run", *flags, *sh("ls /proc/self/fd"))
    script = 'exec 3< /dev/zero 4< /dev/full 5<&-; export LISTEN_FDS=2 LISTEN_PID=$$; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *argv], capture_output=True, text=True, check=False, close_fds=True
    )
    assert done.stdout.split()[:3] == ["/dev/zero", "/dev/full", "2"], done.stderr
    [pod] = box.good("list", "--format=json").json
    assert json.loads((box.data / "pods/run" / pod["name"] / "pod").read_text())["ports"] == [
        {"name": "web", "hostPort": 8080, "hostIP": "::1"}, {"name": "ssh", "hostPort": 22},
    ]  # fmt: skip
    for port, message in (
        ("web", '"web" is not in name:[ip:]port'),
        ("web:0", "not in name:[ip:]port"),
        ("web:here:80", '"here" is not a valid IP'),
        ("Web:80", '"Web" is not a valid port name'),
    ):
        done = box("run", f"--port={port}", f"--stage1-path={own}", *sh("true"))
        assert (done.code, message in done.err) == (254, True), done.err
    done = box("run", "--net=host", *flags, *sh("true"))
    assert "--port flag does not work with 'host' networking" in done.err


@pytest.mark.root
def test_its_life(box, stage1, tmp_path):
    flags = ["--net=mine:IP=1.2.3.4", "--hostname=there", "--dns=192.0.2.1", f"--stage1-path={stage1()}"]
    done = box("run", *flags, *sh("echo in $0; cat; exit 7"), stdin="typed")
    assert (done.code, done.out) == (7, "in /bin/sh\n"), done.err
    [pod] = box.good("list", "--format=json").json
    assert (pod["state"], pod["apps"][0]["exit_code"]) == ("exited", 7)
    path = box.data / "pods/run" / pod["name"]
    assert (path / "run-arguments").read_text().split() == [
        "--net=mine:IP=1.2.3.4", f"--local-config={box.base}/etc", "--hostname=there",
        "--dns-conf-mode=resolv=stage0,hosts=default", pod["name"],
    ]  # fmt: skip
    upper = path / "overlay" / (path / "stage1TreeStoreID").read_text() / "upper"
    assert (upper / "etc/rkt-resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert json.loads((path / "pod").read_text())["annotations"] == [
        {"name": "coreos.com/rkt/stage1/mutable", "value": "false"}
    ]
    box.good("image", "gc", "--grace-period=0s")  # its stage1 has still to collect it
    box.good("gc", "--grace-period=0s")
    assert (tmp_path / "collected").read_text() == f"--local-config /etc/rkt {pod['name']}\n"
    assert box.good("list", "--format=json").json == []


@pytest.mark.root
def test_entered_and_stopped(box, stage1, traces):
    script = "trap 'echo ended; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.05; done"
    process, uuid = box.running(f"--stage1-path={stage1()}", *sh(script))
    done = box(
        "enter", uuid, "/bin/sh", "-c", "until test -e /tmp/ready; do sleep 0.05; done; echo in; exit 3"
    )
    assert (done.code, done.out) == (3, "in\n"), done.err
    assert box.good("status", uuid).out.count("state=running") == 1
    box.good("stop", uuid)
    assert process.communicate(timeout=60)[0] == "ended\n"
    assert process.returncode == 0
    assert (box.data / "pods/run" / uuid / "stop-arguments").read_text() == f"{uuid}\n"
    assert traces(uuid) == []


@pytest.mark.root
def test_killed_with_whoever_runs_it(box, stage1, traces, tmp_path):
    process, uuid = box.running(f"--stage1-path={stage1()}", *sh("while :; do sleep 0.05; done"))
    process.kill()
    box.good("status", "--wait=20s", uuid)
    assert traces(uuid) == []
    box.good("rm", uuid)
    assert uuid in (tmp_path / "collected").read_text()


@pytest.mark.root
def test_a_stop_that_does_nothing_is_forced(box, stage1):
    process, uuid = box.running(f"--stage1-path={stage1(stop='exit 0')}", *sh("while :; do sleep 0.05; done"))
    box.good("stop", "--force", uuid)
    assert process.wait(60) == 0


@pytest.mark.root
def test_a_terminal(box, stage1):
    ours, theirs = pty.openpty()
    script = "until stty size | grep 33; do sleep 0.05; done; read line; echo got $line; exit 3"
    command = box.command("run", "--interactive", f"--stage1-path={stage1()}", *sh(script))
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=theirs, check=True)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    text = b""
    while b"33 101" not in text:
        text += os.read(ours, 4096)
    os.write(ours, b"word\n")
    while b"got word" not in text:
        text += os.read(ours, 4096)
    assert process.wait(60) == 3
    process.stderr.close()
    os.close(ours)


@pytest.mark.root
def test_prepared_by_one_and_run_by_another(box, stage1):
    uuid = box.good("prepare", "--quiet", f"--stage1-path={stage1()}", *sh("echo $((6 * 7))")).out.strip()
    box.good("image", "gc", "--grace-period=0s")
    box.strict = True  # it was let in when it was prepared
    assert box.good("run-prepared", uuid).out == "42\n"


@pytest.mark.root
def test_its_own_failure(box, stage1):
    done = box("run", f"--stage1-path={stage1(run='echo no >&2; exit 254')}", *sh(":"))
    assert done.code == 254
    assert "no\n" in done.err
    assert "could not run the pod (exit code 254, its own failure)" in done.err
    [uuid] = [pod["name"] for pod in box.good("list", "--format=json").json]
    box.good("rm", uuid)


@pytest.mark.root
def test_a_gc_that_fails_keeps_the_pod(box, stage1, tmp_path):
    stage = stage1(gc=f"test -e {tmp_path}/may || {{ echo not yet >&2; exit 1; }}")
    box.good("run", f"--stage1-path={stage}", *sh(":"))
    done = box("gc", "--grace-period=0s")
    assert done.code == 254
    assert "its stage1 has not collected it" in done.err
    (tmp_path / "may").touch()
    box.good("gc", "--grace-period=0s")
    assert not any(path for phase in (box.data / "pods").iterdir() for path in phase.iterdir())


@pytest.mark.root
def test_signed_or_where_the_administrator_puts_them(box, stage1, tmp_path):
    path = Path(stage1())
    box.strict = True
    box.good("fetch", "--insecure-options=image", path)
    done = box("prepare", f"--stage1-path={path}", "example.com/box", "--insecure-options=none")
    assert done.code == 254
    box.strict = False
    fetched = box.good("prepare", "--quiet", "example.com/box").out.strip()
    box.strict = True
    (box.base / "etc/paths.d").mkdir(parents=True)
    document = {"rktKind": "paths", "rktVersion": "v1", "stage1-images": str(path.parent)}
    (box.base / "etc/paths.d/x.json").write_text(json.dumps(document))
    flags = ("--quiet", "--stage1-from-dir=own.aci")
    done = box("prepare", *flags, "example.com/box")
    assert "box" in done.err  # of the app's image, which is not signed; the stage1 need not be
    box.strict = False
    assert box.good("prepare", *flags, "example.com/box").out.strip() != fetched


@pytest.mark.root
def test_ids_of_the_pods_own(box, stage1, stage1_run, tmp_path):
    """What of the images, volumes and stage1 it sees is theirs; what it has written is exported as whose it says."""
    if why := userns.why_not():
        pytest.skip(why)
    run = """
    for one; do case $one in --private-users=*) users=${one#*=};; esac; done
    root=$(ls -d stage1/rootfs/opt/stage2/*/rootfs)
    for file in stage1/rootfs/run stage1/rootfs/rkt/status "$root" "$root/bin/busybox" "$root/data" sharedVolumes/v; do
        stat -c '%u %g' "$file"
    done > owners
    chown "${users%:*}" "$root/tmp"
    echo new > "$root/tmp/new"; chown "$((${users%:*} + 12)):${users%:*}" "$root/tmp/new"
    """
    flags = ["--private-users", "--volume=v,kind=empty,uid=3,gid=4", "--mount=volume=v,target=/v"]
    box.good("run", *flags, f"--stage1-path={stage1(run=run + stage1_run)}", *sh("true"))
    [pod] = box.good("list", "--format=json").json
    path = box.data / "pods/run" / pod["name"]
    users = next(
        one for one in (path / "run-arguments").read_text().split() if one.startswith("--private-users=")
    )
    first, count = map(int, users.partition("=")[2].split(":"))
    assert first >= userns.FIRST
    assert count == 65536
    owners = [(first, first)] * 4 + [(first + 7, first + 8), (first + 3, first + 4)]
    assert [tuple(map(int, line.split())) for line in (path / "owners").read_text().splitlines()] == owners
    box.good("export", pod["name"], tmp_path / "out.aci")
    with tarfile.open(tmp_path / "out.aci") as tar:
        found = {one.name: (one.uid, one.gid) for one in tar}
    assert found["rootfs/tmp/new"] == (12, 0)
    assert found["rootfs/tmp"] == (0, 0)
    assert found["rootfs/bin/busybox"] == (0, 0)
    assert found["rootfs/data"] == (7, 8)


@pytest.mark.root
def test_what_is_no_stage1(box):
    done = box("prepare", "--stage1-name=example.com/box", *sh(":"))
    assert "no stage1 image, it has no annotation coreos.com/rkt/stage1/run" in done.err


# -- where it is looked for


@pytest.fixture
def configured(tmp_path):
    """configured(KIND, **fields): a file of rkt's configuration; gives the globals."""

    def put(kind="", **fields):
        if kind:
            place = tmp_path / "etc" / f"{kind}.d"
            place.mkdir(parents=True, exist_ok=True)
            (place / "x.json").write_text(json.dumps({"rktKind": kind, "rktVersion": "v1", **fields}))
        return Globals(local_config=str(tmp_path / "etc"), system_config=str(tmp_path / "usr"))

    return put


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The directory of the program."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rkt").touch()
    monkeypatch.setattr("sys.argv", [str(tmp_path / "bin/rkt")])
    return tmp_path / "bin"


def test_ours(configured, beside):
    g = configured()
    assert choose(g, {}) == Choice("linux")
    assert choose(g, {"stage1-name": "coreos.com/rkt/stage1-fly:1.30.0"}) == Choice("fly")
    assert choose(g, {"stage1-from-dir": "stage1-fly.aci"}) == Choice("fly")
    assert choose(g, {"stage1-path": f"{IMAGES}/stage1-coreos.aci"}) == Choice("linux")
    g = configured(
        "stage1", name="coreos.com/rkt/stage1-fly", version="1.30.0", location="/no/stage1-fly.aci"
    )
    assert choose(g, {}) == Choice("fly")


def test_others(configured, beside, tmp_path):
    g = configured()
    assert choose(g, {"stage1-name": "example.com/x:1"}) == Choice("stage1", (Place("example.com/x:1"),))
    assert choose(g, {"stage1-hash": "sha512-aa"}) == Choice("stage1", (Place("sha512-aa", "never"),))
    (beside / "x.aci").touch()
    there = Place(str(beside / "x.aci"), trusted=True)
    assert choose(g, {"stage1-path": "/no/x.aci"}).places == (Place("/no/x.aci"), there)
    (beside / "stage1-fly.aci").touch()  # the real one goes before ours
    assert choose(g, {"stage1-from-dir": "stage1-fly.aci"}).flavor == "stage1"


def test_nothing_is_beside_a_program_that_is_no_file(configured, tmp_path, monkeypatch):
    """The directory in which somebody happens to be is nobody's word."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["-c"])
    (tmp_path / "x.aci").touch()
    assert choose(configured("stage1", location="/no/x.aci"), {}).places == (Place("/no/x.aci"),)
    assert choose(configured(), {"stage1-path": "x.aci"}).places == (Place(str(tmp_path / "x.aci")),)


def test_the_directory_is_trusted_but_what_is_only_named_so_is_not(configured, beside, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "x.aci").touch()
    (tmp_path / "y.aci").touch()
    (images / "link.aci").symlink_to(tmp_path / "y.aci")
    g = configured("paths", **{"stage1-images": str(images)})
    trusted = {
        name: choose(g, {"stage1-from-dir": name}).places[0].trusted
        for name in ("x.aci", "link.aci", "../y.aci")
    }
    assert trusted == {"x.aci": True, "link.aci": False, "../y.aci": False}
    assert choose(g, {"stage1-path": str(images / "x.aci")}).places[0].trusted


def test_of_the_configuration(configured, beside):
    g = configured("stage1", name="example.com/x", version="2", location="/srv/x.aci")
    assert choose(g, {}).places == (
        Place("example.com/x:2", "never"),
        Place("/srv/x.aci"),
        Place(str(beside / "x.aci"), trusted=True),
    )
    g = configured("stage1", location="https://example.com/x.aci")
    assert choose(g, {}).places == (Place("https://example.com/x.aci"),)
    with pytest.raises(Failure, match="either a relative path or a URL without scheme"):
        choose(configured("stage1", location="x.aci"), {})
