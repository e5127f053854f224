"""`app …`: pods whose apps come and go; real ones."""

import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from executor.rkt.apps import Apps, add_app_volumes
from executor.rkt.flags import Failure, Flags
from executor.rkt.mutable import joined, parted

pytestmark = pytest.mark.root

NAME = "example.com/box"


@pytest.fixture(autouse=True)
def on(monkeypatch):
    """rkt's experiments."""
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    monkeypatch.setenv("RKT_EXPERIMENT_ATTACH", "true")


@pytest.fixture
def sandbox(box):
    """Start an empty pod."""

    def start(*flags):
        file = box.base / f"uuid{len(box.started)}"
        os.mkfifo(file)
        process = box.start("app", "sandbox", "--net=none", f"--uuid-file-save={file}", *flags)
        uuid = file.read_text()
        box.good("status", "--wait-ready=20s", uuid)
        return process, uuid

    return start


@pytest.fixture
def states(box):
    def look(uuid):
        return dict(line.split() for line in box.good("app", "list", "--no-legend", uuid).lines if line)

    return look


def status(box, uuid, name):
    return box.good("app", "status", uuid, f"--app={name}", "--format=json").json


def until(process, word):
    """Lines of a pod, up to one that ends so."""
    for line in process.stdout:
        if line.rstrip().endswith(word):
            return line
    raise AssertionError(f"{word!r} was never said")


def test_only_as_an_experiment(fetched):
    off = {"RKT_EXPERIMENT_APP": "false"}
    for args, code in ((("app", "sandbox"), 1), (("app", "add", "x", "y"), 254), (("app", "list", "x"), 1)):
        done = fetched(*args, env=off)
        assert (done.code, "RKT_EXPERIMENT_APP=true" in done.err) == (code, True)


def test_add_start_remove(box, sandbox, traces):
    process, uuid = sandbox()
    assert box.good("app", "list", "--no-legend", uuid).out == "\n"
    box.good("app", "add", uuid, NAME, "--exec=/bin/sh", "--", "-c", "echo said; sleep 1000")
    assert box.good("app", "list", uuid).lines == ["NAME\tSTATE", "box\tcreated"]
    box.good("app", "start", uuid, "--app=box")
    assert " box[" in until(process, "said")
    assert box.good("app", "exec", uuid, "/bin/sh", "-c", "echo $AC_APP_NAME").out == "box\n"
    box.good("app", "rm", uuid, "--app=box")
    assert box.good("app", "list", "--no-legend", uuid).out == "\n"
    assert [line for line in traces(uuid) if "sleep" in line] == []
    pod = box.data / "pods/run" / uuid
    assert not [path for path in pod.rglob("*") if path.name.startswith("box")]
    assert box.good("status", uuid).lines[0] == "state=running"
    box.good("stop", uuid)
    assert process.wait(60) == 0
    assert traces(uuid) == []


def test_several_apps(box, sandbox, states):
    """Of one image, too; one that fails takes nothing along."""
    process, uuid = sandbox()
    for name, script in (("winner", "true"), ("loser", "exit 12"), ("sleeper", "echo sleeps; sleep 1000")):
        box.good("app", "add", uuid, NAME, f"--name={name}", "--exec=/bin/sh", "--", "-c", script)
        box.good("app", "start", uuid, f"--app={name}")
    until(process, "sleeps")
    # The end of each is told by its status file, whenever that comes.
    while states(uuid) != {"winner": "exited", "loser": "exited", "sleeper": "running"}:
        assert set(states(uuid).values()) <= {"created", "exited", "running"}
    found = status(box, uuid, "loser")
    assert (found["exit_code"], found["state"]) == (12, "exited")
    assert found["created_at"] <= found["started_at"] <= found["finished_at"]
    text = box.good("app", "status", uuid, "--app=sleeper").lines
    assert text[:2] == ["name=sleeper", "state=running"]
    assert not [line for line in text if line.startswith("exit_code")]
    done = box("app", "status", uuid, "--app=other")
    assert (done.code, 'status: cannot find app "other" in the pod' in done.err) == (1, True)
    for name in ("winner", "loser", "sleeper"):
        box.good("app", "rm", uuid, f"--app={name}")
    assert states(uuid) == {}
    process.terminate()
    assert process.wait(60) == 0


def test_stop_and_start_again(box, sandbox, states):
    """What it has written to its root is still there; removed and added anew it is not."""
    process, uuid = sandbox()
    script = "trap 'exit 3' TERM; ls /made; touch /made; echo up; while :; do sleep 0.05; done"
    box.good("app", "add", uuid, NAME, "--exec=/bin/sh", "--", "-c", script)
    box.good("app", "stop", uuid, "--app=box")  # it does not run: nothing to do
    for _ in range(2):
        box.good("app", "start", uuid, "--app=box")
        box.good("app", "start", uuid, "--app=box")  # it runs already
        until(process, "up")
        box.good("app", "stop", uuid, "--app=box")
        assert (states(uuid), status(box, uuid, "box")["exit_code"]) == ({"box": "exited"}, 3)
    box.good("app", "rm", uuid, "--app=box")
    box.good("app", "add", uuid, NAME, "--exec=/bin/sh", "--", "-c", "ls /made; echo fresh")
    box.good("app", "start", uuid, "--app=box")
    assert "/made" not in until(process, "fresh")
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert err.count("/made: No such file") == 2
    assert box.good("app", "list", "--no-legend", uuid).lines == ["box\texited"]
    box.good("app", "rm", uuid, "--app=box")
    assert states(uuid) == {}
    assert "is already stopped" in box.good("app", "stop", uuid, "--app=box").out


def test_one_that_does_not_want_to_stop_is_killed(box, sandbox, monkeypatch):
    process, uuid = sandbox()
    box.good(
        "app",
        "add",
        uuid,
        NAME,
        "--exec=/bin/sh",
        "--",
        "-c",
        "trap '' TERM; echo up; while :; do sleep 1; done",
    )
    box.good("app", "start", uuid, "--app=box")
    until(process, "up")
    box.good("app", "rm", uuid, "--app=box")
    process.kill()
    process.wait()


def test_what_cannot_be(box, sandbox, fetched):
    _, uuid = sandbox()
    for args, code, why in (
        (("exec", uuid), 254, "pod contains no apps"),
        (("add", uuid, "example.com/other"), 254, "is not in the store"),
        (("add", uuid, NAME, "---", NAME), 254, "must give only one app"),
        (("add", uuid), 254, "must provide the pod UUID and an IMAGEID"),
        (("start", uuid, "--app=nope"), 254, 'error: nonexistent app "nope"'),
        (("rm", uuid, "--app=nope"), 254, 'error: nonexistent app "nope"'),
        (("start", uuid), 254, "must provide the app to start"),
        (("sandbox", NAME), 1, "takes no images"),
        (("add", uuid, NAME, "--memory=64M", "--name=box", "--exec=/nope"), 0, ""),
        (("add", uuid, NAME), 254, "error: multiple apps with name box"),
        (("start", uuid, "--app=box"), 254, "exec /nope: No such file or directory"),
    ):
        done = box("app", *args)
        assert (done.code, why in done.err) == (code, True), done.err
    assert status(box, uuid, "box")["state"] == "created"
    done = box("--insecure-options=all-run,image", "app", "add", uuid, NAME, "--name=mighty")
    assert (done.code, "was not started for privileged apps" in done.err) == (254, True)
    assert "mighty" not in box.good("cat-manifest", uuid).out
    _, other = box.running(NAME, "--exec=/bin/sleep", "--", "1000")
    done = box("app", "add", other, NAME, "--name=x")
    assert (done.code, "is immutable" in done.err) == (254, True)


def test_mounts_and_notes(box, sandbox, tmp_path):
    """Each app has volumes of its own, wherever their targets seem to lead."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("of the host")
    process, uuid = sandbox(
        "--annotation=foo=bar", "--user-annotation=ayy=lmao", "--user-label=l=m", "--hostname=here"
    )
    manifest = box.good("cat-manifest", uuid).json
    assert {"name": "foo", "value": "bar"} in manifest["annotations"]
    assert (manifest["userAnnotations"], manifest["userLabels"]) == ({"ayy": "lmao"}, {"l": "m"})
    for number, target in enumerate(("/dir", "/../../deep/er", "../../bin/x")):
        name = f"box{number}"
        flag = f"--mnt-volume=name=v,kind=host,source={tmp_path}/in,readOnly={str(number == 1).lower()},target={target}"
        where = os.path.normpath("/" + target.lstrip("/"))
        box.good(
            "app", "add", uuid, NAME, f"--name={name}", flag, "--annotation=a=b", "--user-annotation=c=d",
            "--environment=E=f", "--mnt-volume=name=e,kind=empty,target=/empty", "--exec=/bin/sh", "--", "-c",
            f"touch /empty/x {where}/y{number}; cat {where}/file; echo \" $E `hostname`\"",
        )  # fmt: skip
        box.good("app", "start", uuid, f"--app={name}")
        assert until(process, "f here").rstrip().endswith("of the host f here")
        found = status(box, uuid, name)
        assert found["user_annotations"] == {"c": "d"}
        assert [mount["container_path"] for mount in found["mounts"]] == [where, "/empty"]
    entry = box.good("cat-manifest", uuid).json["apps"][0]
    assert entry["annotations"] == [{"name": "a", "value": "b"}]
    assert entry["app"]["userAnnotations"] == {"c": "d"}
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["file", "y0", "y2"]
    volumes = box.data / "pods/run" / uuid / "sharedVolumes"
    assert len(list(volumes.iterdir())) == 3
    for number in range(3):
        box.good("app", "rm", uuid, f"--app=box{number}")
    assert list(volumes.iterdir()) == []
    assert (tmp_path / "in/file").exists()


def test_attach_and_logs_as_cri_wants_them(box, sandbox, tmp_path):
    notes = ("--annotation=coreos.com/rkt/experiment/logmode=k8s-plain",
             f"--annotation=coreos.com/rkt/experiment/kubernetes-log-dir={tmp_path}")  # fmt: skip
    _, uuid = sandbox(*notes)
    flags = ("--stdin=stream", "--stdout=stream", "--stderr=stream", "--exec=/bin/sh")
    done = box("app", "add", uuid, NAME, *flags)
    assert done.code == 0, done.err
    assert "kubernetes-log-path is needed" in box("app", "start", uuid, "--app=box").err
    box.good("app", "rm", uuid, "--app=box")
    box.good(
        "app",
        "add",
        uuid,
        NAME,
        *flags,
        "--annotation=coreos.com/rkt/experiment/kubernetes-log-path=box_0.log",
    )
    box.good("app", "start", uuid, "--app=box")
    assert box.good("attach", "--mode=list", uuid).lines == ["stdin", "stdout", "stderr"]
    done = box.good("attach", uuid, stdin="echo out; echo err >&2; printf rest; exit\n")
    assert (done.out, done.err) == ("out\nrest", "err\n")
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "box_0.log").read_text().splitlines()]
    assert sorted(lines) == ["stderr err", "stdout out", "stdout rest"]


@pytest.mark.parametrize("flavor", ["coreos.com/rkt/stage1-fly", "nspawn"])
def test_other_flavors(box, sandbox, flavor):
    if flavor == "nspawn" and shutil.which("systemd-nspawn") is None:
        pytest.skip("needs systemd-nspawn")
    process, uuid = sandbox(f"--stage1-name={flavor}")
    box.good("app", "add", uuid, NAME, "--exec=/bin/echo", "--", "flies")
    box.good("app", "start", uuid, "--app=box")
    until(process, "flies")
    box.good("app", "rm", uuid, "--app=box")


def test_privileged_apps_where_they_were_expected(box, sandbox):
    _, uuid = sandbox("--insecure-options=all-run,image")
    box.good("app", "add", "--insecure-options=all-run,image", uuid, NAME, "--exec=/bin/sleep", "--", "1000")
    box.good("app", "start", uuid, "--app=box")
    found = box.good("app", "exec", uuid, "/bin/grep", "-E", "Seccomp:|CapEff", "/proc/self/status").out
    assert "Seccomp:\t0" in found


def test_everything_dies_with_the_sandbox(box, sandbox, traces):
    process, uuid = sandbox()
    box.good("app", "add", uuid, NAME, "--exec=/bin/sleep", "--", "1000")
    box.good("app", "start", uuid, "--app=box")
    process.kill()
    process.wait()
    assert box.good("status", "--wait=20s", uuid).lines[0] == "state=exited"
    assert traces(uuid) == []
    assert status(box, uuid, "box")["state"] == "exited"
    box.good("app", "rm", uuid, "--app=box")
    box.good("rm", uuid)


def test_its_images_are_kept(box, sandbox):
    _, uuid = sandbox()
    box.good("app", "add", uuid, NAME)
    assert "0 image(s) successfully removed" in box.good("image", "gc", "--grace-period=0s").err
    assert box("image", "rm", NAME).code == 254
    box.good("app", "rm", uuid, "--app=box")
    box.good("image", "rm", NAME)


def test_many_at_once(box, sandbox, states):
    """Changes come one after another, whoever asks for them."""
    _, uuid = sandbox()
    commands = [box.command("app", "add", uuid, NAME, f"--name=a{n}", "--exec=/bin/true") for n in range(6)]
    running = [subprocess.Popen(command) for command in commands]
    assert [one.wait(90) for one in running] == [0] * 6
    assert set(states(uuid)) == {f"a{n}" for n in range(6)}
    (box.data / "pods/run" / uuid / "pod").read_text()


@pytest.mark.parametrize("delay", [0.1, 0.6])
def test_killed_in_the_middle_of_changes(box, sandbox, traces, delay):
    """Whoever is killed, and whenever: the pod goes on or is gone, and nothing else."""
    process, uuid = sandbox()
    script = "; ".join(
        " ".join(map(shlex.quote, box.command("app", *words)))
        for words in (
            ("add", uuid, NAME, "--exec=/bin/sleep", "--", "1000"),
            ("start", uuid, "--app=box"),
            ("rm", uuid, "--app=box"),
        )
    )
    changing = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(delay)
    os.killpg(changing.pid, signal.SIGKILL)
    changing.wait()
    box("app", "rm", uuid, "--app=box")
    box.good("app", "add", uuid, NAME, "--exec=/bin/sleep", "--", "1000")
    changing = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()
    changing.wait()
    assert box.good("status", "--wait=20s", uuid).lines[0] == "state=exited"
    assert traces(uuid) == []
    box.good("rm", uuid)
    assert not any(any(phase.iterdir()) for phase in (box.data / "pods").iterdir())


# -- pure ---------------------------------------------------------------------------------------------------


def test_volumes_of_an_app():
    apps = Apps()
    flags = Flags("add", "")
    add_app_volumes(flags, apps)
    flags.parse(["box", "--mnt-volume=name=v,kind=host,source=/s,target=a/../../b"], apps.word)
    assert apps.apps[0].app_volumes == [({"name": "v", "kind": "host", "source": "/s"}, "/b")]
    for wrong in ("name=v,kind=host,source=/s", "v,kind=empty,target=/x", "name=v,kind=x,target=/x"):
        with pytest.raises(Failure):
            flags.parse([f"--mnt-volume={wrong}"], apps.word)


def test_names_of_volumes(tmp_path):
    manifest = {"apps": [], "volumes": []}
    source = {"name": "v", "kind": "host", "source": str(tmp_path)}
    other = {**source, "source": "/"}
    for app, volume in (("a", source), ("b", source), ("c", other), ("d", {"name": "v", "kind": "empty"})):
        manifest, _ = joined(manifest, {"name": app, "app": {}}, [(volume, "/x")], [], docker=False)
    assert [volume["name"] for volume in manifest["volumes"]] == ["v", "c-v", "d-v"]
    assert [entry["mounts"][0]["volume"] for entry in manifest["apps"]] == ["v", "v", "c-v", "d-v"]
    manifest, gone = parted(manifest, "a")
    assert gone == set()
    manifest, gone = parted(manifest, "b")
    assert (gone, [volume["name"] for volume in manifest["volumes"]]) == ({"v"}, ["c-v", "d-v"])
