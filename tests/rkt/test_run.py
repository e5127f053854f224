"""`run`: what apps get, and what becomes of the pod; real ones."""

import json
import os
import pty
import re
import signal
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from executor.kvm import kernel, probe

pytestmark = pytest.mark.root


def test_an_image_by_name(fetched):
    done = fetched.good("run", "--net=none", "example.com/box:1.0")
    assert done.out == "hello\n"


def test_the_exit_code_is_the_apps(fetched):
    assert fetched.sh("exit 7").code == 7
    assert fetched.sh("kill -9 $$").code == 128 + signal.SIGKILL


def test_what_cannot_be_executed_is_254(fetched):
    done = fetched("run", "--net=none", "example.com/box", "--exec=/nope")
    assert done.code == 254
    assert "run: app box: exec /nope: No such file or directory" in done.err


def test_streams_stay_apart(fetched):
    done = fetched.sh("echo out; echo err >&2; cat")
    assert (done.out, done.code) == ("out\n", 0)
    assert "err\n" in done.err


def test_standard_input_of_an_interactive_app(fetched):
    done = fetched(
        "run", "--net=none", "--interactive", "example.com/box", "--exec=/bin/cat", stdin="typed\n"
    )
    assert (done.out, done.code) == ("typed\n", 0)


def test_a_terminal_of_its_own(fetched):
    """And whoever types there reaches the app, as on any terminal."""
    ours, theirs = pty.openpty()
    script = 'tty; until stty size | grep "33 101"; do sleep 0.05; done; read line; echo "got $line"; exit 3'
    command = fetched.command(
        "run", "--net=none", "--interactive", "example.com/box", "--exec=/bin/sh", "--", "-c", script
    )
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=theirs, check=True)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    text = b""
    while b"101" not in text:
        text += os.read(ours, 4096)
    os.write(ours, b"word\n")
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:
        pass  # the other side was closed
    assert process.wait(90) == 3, process.communicate()
    process.communicate()
    os.close(ours)
    assert b"/dev/pts/0" in text
    assert b"33 101" in text
    assert b"got word" in text


def test_who_and_where(fetched):
    flags = ["--user=app", "--group=web", "--supplementary-gids=7,8", "--working-dir=/tmp/x", "--name=me"]
    done = fetched.sh('id; echo "$PWD $AC_APP_NAME"', *flags)
    assert done.lines == ["uid=1234(app) gid=2345(web) groups=7,8", "/tmp/x me"]


def test_environments(fetched, tmp_path):
    file = tmp_path / "env"
    file.write_text("# comment\n\nFILE=file\nBOTH=file\n; too\n")
    flags = ["--inherit-env", "--set-env=BOTH=set", f"--set-env-file={file}"]
    done = fetched("run", "--net=none", *flags, "example.com/box", "--environment=OWN=own", "--exec=/bin/env",
                   env={"PARENT": "parent", "WHO": "parent"})  # fmt: skip
    found = dict(line.split("=", 1) for line in done.lines)
    wanted = {"PARENT": "parent", "WHO": "image", "FILE": "file", "BOTH": "set", "OWN": "own"}
    assert {name: found[name] for name in wanted} == wanted
    assert "PARENT" not in fetched.sh("env").out


def test_rights(fetched):
    script = "cat /proc/self/status"

    def field(name, done):
        return re.search(rf"{name}:\s*(\w+)", done.out)[1]

    flags = ["--seccomp=mode=remove,errno=EPERM,mount", "--oom-score-adj=123", "--readonly-rootfs"]
    done = fetched.sh(f"{script} /proc/self/oom_score_adj; touch /x", "--caps-retain=CAP_KILL", *flags)
    assert field("CapBnd", done) == f"{1 << 5:016x}"
    assert field("Seccomp", done) == "2"
    assert done.lines[-1] == "123"
    assert "Read-only file system" in done.err
    done = fetched.sh(script, "--caps-remove=CAP_KILL")
    assert field("CapBnd", done) == f"{0xA80425FB & ~(1 << 5):016x}"
    done = fetched("--insecure-options=all-run", "run", "--net=none", "example.com/box", "--exec=/bin/cat", "--",
                   "/proc/self/status")  # fmt: skip
    assert re.search(r"Seccomp:\s*0", done.out)
    assert re.search(r"CapBnd:\s*0*1?[f]+", done.out)


def test_limits(fetched):
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /proc/self/cgroup"
    done = fetched.sh(script, "--memory=64M", "--cpu=500m", "--cpu-shares=512")
    assert done.code == 0, done.err


def test_volumes(fetched, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("of the host\n")
    (tmp_path / "link").symlink_to("in")
    flags = [
        f"--volume=host,kind=host,source={tmp_path}/link",
        f"--volume=fixed,kind=host,source={tmp_path}/in,readOnly=true",
        "--volume=empty,kind=empty,mode=0700,uid=5,gid=6",
        "--mount=volume=host,target=/all",
    ]
    script = "cat /all/file; ls -ldn /empty; echo more >/all/more; touch /fixed/x"
    mounts = ["--mount=volume=fixed,target=/fixed", "--mount=volume=empty,target=/empty"]
    done = fetched(
        "run", "--net=none", *flags, "example.com/box", *mounts, "--exec=/bin/sh", "--", "-c", script
    )
    assert done.lines[0] == "of the host"
    assert re.match(r"drwx------ +2 5 +6 ", done.lines[1])
    assert (tmp_path / "in/more").read_text() == "more\n"
    assert "Read-only file system" in done.err
    done = fetched("run", "--net=none", "--volume=v,kind=host,source=/nope", "example.com/box")
    assert (done.code, done.out) == (1, "")  # as nspawn's
    assert "volume v: Failed to stat /nope: No such file or directory" in done.err


def test_volumes_of_docker_images_begin_with_the_images_content(fetched, images):
    assert fetched.good("run", "--net=none", images.oci).out == "of the image\n"
    done = fetched.good("run", "--net=none", images.oci, "--exec=/bin/sh", "--", "-c", "ls -ldn /data; mount")
    assert re.match(r"drwxr-xr-x +2 7 +8 ", done.lines[0])
    assert " on /data type " in done.out
    assert (images.rootfs / "data/file").exists()


def test_names_and_nets(fetched):
    done = fetched.good(
        "run", "--net=none", "example.com/box", "--exec=/bin/sh", "--", "-c", "hostname; ls /sys/class/net"
    )
    assert re.fullmatch(r"rkt-[0-9a-f-]{36}\nlo\n", done.out)
    done = fetched.good("run", "--net=none", "--hostname=here", "example.com/box", "--exec=/bin/hostname")
    assert done.out == "here\n"
    done = fetched.good("run", "--net=host", "example.com/box", "--exec=/bin/hostname")
    assert done.out.strip() == os.uname().nodename


def test_dns_and_hosts(fetched):
    flags = ["--dns=192.0.2.1", "--dns-search=a.test", "--dns-opt=ndots:3", "--hosts-entry=192.0.2.9=db"]
    done = fetched.good(
        "run",
        "--net=none",
        *flags,
        "example.com/box",
        "--exec=/bin/cat",
        "--",
        "/etc/resolv.conf",
        "/etc/hosts",
    )
    assert "search a.test\nnameserver 192.0.2.1\noptions ndots:3\n" in done.out
    assert "192.0.2.9 db\n" in done.out
    assert "localhost" in done.out
    done = fetched.good("run", "--net=none", "--hosts-entry=host", "--dns=host", "example.com/box",
                        "--exec=/bin/cat", "--", "/etc/resolv.conf", "/etc/hosts")  # fmt: skip
    assert done.out == Path("/etc/resolv.conf").read_text() + Path("/etc/hosts").read_text()


def test_several_apps_and_who_says_what(fetched):
    done = fetched.good(
        "run", "--net=none",
        "example.com/box", "--name=one", "--exec=/bin/echo", "--", "first", "---",
        "example.com/box", "--name=two", "--exec=/bin/echo", "--", "second",
    )  # fmt: skip
    assert sorted(re.sub(r"^\[ *\d+\.\d+\] (\w+)\[\d+\]: ", r"\1 ", line) for line in done.lines) == [
        "one first",
        "two second",
    ]


def test_one_app_that_fails_takes_the_others_along(fetched):
    done = fetched(
        "run", "--net=none",
        "example.com/box", "--name=one", "--exec=/bin/sleep", "--", "1000", "---",
        "example.com/box", "--name=two", "--exec=/bin/sh", "--", "-c", "exit 5",
    )  # fmt: skip
    assert done.code == 5


def test_fly(fetched):
    done = fetched.good("run", "--net=none", "--stage1-name=coreos.com/rkt/stage1-fly:1.30.0", "example.com/box",
                        "--exec=/bin/hostname")  # fmt: skip
    assert done.out.strip() == os.uname().nodename


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("machines")
def test_machines_have_the_image_s_volumes_and_leave_what_was_written(fetched, images, tmp_path):
    """The last app's root is exported: what it removed, and replaced, is gone."""
    try:
        probe.tools()
        kernel.find()
    except (probe.ProbeError, kernel.KernelError) as error:
        pytest.skip(str(error))
    script = (
        "cat /data/file; echo more > /data/more; cat /data/more; rm -r /etc; busybox mkdir /etc /made; "
        "echo new > /etc/new; rm /tmp/../bin/stty"
    )
    file = tmp_path / "uuid"
    done = fetched(
        "run", "--net=none", "--stage1-name=coreos.com/rkt/stage1-kvm", f"--uuid-file-save={file}", images.oci,
        "--exec=/bin/sh", "--", "-c", script, seconds=240,
    )  # fmt: skip
    assert (done.out, done.code) == ("of the image\nmore\n", 0), done.err
    fetched.good("export", file.read_text(), tmp_path / "out.aci")
    with tarfile.open(tmp_path / "out.aci") as tar:
        names = {name.removeprefix("rootfs/") for name in tar.getnames()}
        assert not any("overlay" in key for member in tar for key in member.pax_headers)
    assert {"etc/new", "made", "bin/sh"} <= names
    assert names.isdisjoint({"etc/passwd", "bin/stty"})


def test_a_pod_manifest(fetched, tmp_path):
    image_id = next(
        row["id"]
        for row in fetched.good("image", "list", "--format=json").json
        if row["id"].startswith("sha512-")
    )
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [
            {
                "name": "mine",
                "image": {"id": image_id},
                "app": {"exec": ["/bin/sh", "-c", "echo $X; ls -d /v"], "user": "0", "group": "0",
                        "environment": [{"name": "X", "value": "y"}],
                        "mountPoints": [{"name": "v", "path": "/v"}]},
            },
            {"name": "as-it-is", "image": {"id": image_id}},
        ],
    }  # fmt: skip
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(manifest))
    done = fetched.good("run", "--net=none", f"--pod-manifest={path}")
    assert sorted(line.partition("]: ")[2] for line in done.lines) == ["/v", "hello", "y"]
    path.write_text(json.dumps({**manifest, "apps": []}))
    assert "at least one application" in fetched("run", f"--pod-manifest={path}").err
    manifest["apps"][0]["image"]["id"] = "sha512-" + "0" * 128
    path.write_text(json.dumps(manifest))
    done = fetched("run", f"--pod-manifest={path}")
    assert (done.code, "no image with this id" in done.err) == (254, True)


def test_the_uuid_is_saved_early(box):
    """So that rm can do its work even if something goes wrong."""
    done = box("run", "--net=none", f"--uuid-file-save={box.base}/uuid", "example.com/box", "--exec=/nope")
    assert done.code == 254
    uuid = (box.base / "uuid").read_text()
    assert box.good("status", uuid).lines[0] == "state=exited"
    assert box.good("rm", f"--uuid-file={box.base}/uuid").out == f'"{uuid}"\n'
    assert box.good("list", "--no-legend").out == ""


def test_a_failed_fetch_leaves_no_pod(box):
    done = box("run", "--pull-policy=never", "example.com/other")
    assert (done.code, "run: example.com/other: is not in the store" in done.err) == (254, True)
    assert box.good("list", "--no-legend").out == ""
    assert not any(any(phase.iterdir()) for phase in (box.data / "pods").iterdir())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_pod_in_order(box, signum):
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    process, uuid = box.running("example.com/box", "--exec=/bin/sh", "--", "-c", script)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("bye\n", 0)
    assert box.good("status", uuid).lines[-1] == "app-box=0"


def test_kill_9_leaves_nothing_running(box, traces):
    process, uuid = box.running("example.com/box", "--exec=/bin/sleep", "--", "1000")
    assert traces(uuid)
    process.kill()
    process.wait()
    # The lock is free when the last process is gone, and not before.
    done = box.good("status", "--wait=20s", uuid)
    assert done.lines[0] == "state=exited"
    assert traces(uuid) == []
    box.good("rm", uuid)


def test_what_others_may_not_see(box):
    process, uuid = box.running("example.com/box", "--exec=/bin/sleep", "--", "1000")
    pod = box.data / "pods/run" / uuid
    assert stat.S_IMODE((pod / "control").stat().st_mode) == 0o600
    assert pod.stat().st_mode & 0o007 == 0
    # No process of the pod has the pod's directory open, nor our socket.
    pid = int((pod / "pid").read_text())
    assert not [link for link in os.scandir(f"/proc/{pid}/fd") if uuid in os.readlink(link.path)]
    process.terminate()
    process.wait()


def test_ipc(fetched):
    def of(*flags):
        script = "ls -l /proc/self/ns/ipc"
        done = fetched("run", "--net=none", *flags, "example.com/box", "--exec=/bin/sh", "--", "-c", script)
        return done.out.strip().rpartition(" ")[2] or done.err

    assert of("--ipc=parent") == os.readlink("/proc/self/ns/ipc")
    assert of("--ipc=private") != os.readlink("/proc/self/ns/ipc")
    assert "unknown value for --ipc parameter: odd" in of("--ipc=odd")
    assert "requires a private IPC namespace" in of("--ipc=parent", "--stage1-name=stage1-kvm")
    assert "has no namespaces" in of("--ipc=private", "--stage1-name=stage1-fly")
