"""`app …` on stage1 images of others that offer it: the stage1 of the contract's own tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from executor.stage0 import build
from executor.stage0.manifest import host_platform

pytestmark = pytest.mark.root

SCRIPTS = Path(__file__).parents[1] / "contract/stage1/mutable"
NAME = "example.com/box"
ATTACH = """#!/bin/sh
echo "$@" >> attached
case "$*" in
    *--action=list*) echo '{"version": 1, "targets": [{"name": "stdin"}, {"name": "stdout"}]}' ;;
    *--app=two*) echo "no endpoints" >&2; exit 254 ;;
    *) read line; echo "$RKT_STAGE1_ENTERAPP got $line"; echo err >&2 ;;
esac
"""


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    monkeypatch.setenv("RKT_EXPERIMENT_ATTACH", "true")


@pytest.fixture
def stage1(tmp_path):
    """The file of the image. without: entrypoints that it has not."""

    def make(*without, attach="", before_run=""):
        rootfs = tmp_path / "rootfs"
        shutil.copytree(SCRIPTS, rootfs)
        run = rootfs / "run"
        run.write_text(run.read_text().replace("\n", f"\n{before_run}\n", 1))
        if attach:
            (rootfs / "attach").write_text(attach)
        notes = {"interface-version": "6"}
        for path in rootfs.iterdir():
            path.chmod(0o755)
            name = path.name.replace("app-", "app/")
            if name not in without:
                notes[name] = f"/{path.name}"
        arch = {"arm64": "aarch64"}.get(host_platform()[1], host_platform()[1])
        manifest = {
            "acVersion": "0.8.11", "acKind": "ImageManifest", "name": "example.com/stage1-mutable",
            "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": arch}],
            "annotations": [
                {"name": f"coreos.com/rkt/stage1/{key}", "value": value} for key, value in notes.items()
            ],
        }  # fmt: skip
        build.build_aci(rootfs, tmp_path / "stage1.aci", manifest, build.Options(), "none")
        return f"--stage1-path={tmp_path}/stage1.aci"

    return make


def test_apps_come_and_go(box, stage1, tmp_path, traces):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("of the host")
    file = box.base / "uuid"
    os.mkfifo(file)
    process = box.start("app", "sandbox", "--net=none", stage1(), f"--uuid-file-save={file}")
    uuid = file.read_text()
    box.good("status", "--wait-ready=30s", uuid)
    assert "--mutable" in (box.data / "pods/run" / uuid / "run-arguments").read_text()
    volume = f"--mnt-volume=name=v,kind=host,source={tmp_path}/in,target=/data"
    script = "echo said $AC_APP_NAME; sleep 1000"
    for name in ("one", "two"):
        box.good("app", "add", uuid, NAME, f"--name={name}", volume, "--exec=/bin/sh", "--", "-c", script)
    assert [app["name"] for app in box.good("cat-manifest", uuid).json["apps"]] == ["one", "two"]
    assert len({volume["name"] for volume in box.good("cat-manifest", uuid).json["volumes"]}) == 2
    assert box.good("app", "list", "--no-legend", uuid).lines == ["one\tcreated", "two\tcreated"]
    box.good("app", "start", uuid, "--app=two")
    for line in process.stdout:
        if "said two" in line:
            break
    assert box.good("app", "exec", "--app=two", uuid, "/bin/echo", "entered").out == "entered\n"
    box.good("app", "stop", uuid, "--app=two")
    assert box.good("app", "list", "--no-legend", uuid).lines == ["one\tcreated", "two\texited"]
    box.good("app", "rm", uuid, "--app=two")
    box.good("app", "rm", uuid, "--app=one")
    assert box.good("app", "list", "--no-legend", uuid).out == "\n"
    box.good("app", "add", uuid, NAME, "--name=two", "--exec=/bin/sh", "--", "-c", "exit 0")
    for args, why in (
        ((NAME, "--name=two"), "multiple apps with name two"),
        ((NAME, "--name=three", "--stdout=stream"), "one output for all apps"),
    ):
        done = box("app", "add", uuid, *args)
        assert (done.code, why in done.err) == (254, True)
    box.good("stop", uuid)
    assert process.wait(90) == 0
    assert traces(uuid) == []
    box.good("rm", uuid)


def test_sockets_from_systemd_are_its_runs(box, stage1):
    file = box.base / "uuid"
    os.mkfifo(file)
    own = stage1(before_run='test "$LISTEN_PID" = $$ && readlink /proc/self/fd/3 > told')
    argv = box.command("app", "sandbox", "--net=none", own, f"--uuid-file-save={file}")
    script = 'exec 3< /dev/zero 4<&- 5<&-; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    box.started.append(process)
    uuid = file.read_text()
    box.good("status", "--wait-ready=50s", uuid)
    assert (box.data / "pods/run" / uuid / "told").read_text() == "/dev/zero\n"
    box.good("stop", uuid)
    assert process.wait(60) == 0


def test_not_every_stage1_can(box, stage1):
    done = box("app", "sandbox", stage1("app/rm"))
    assert (done.code, "app/add" in done.err) == (1, True), done.err
    assert box.good("list", "--no-legend").out.strip() == ""


def test_attach_by_the_stage1_itself(box, stage1):
    file = box.base / "uuid"
    os.mkfifo(file)
    box.start("app", "sandbox", "--net=none", stage1(attach=ATTACH), f"--uuid-file-save={file}")
    uuid = file.read_text()
    box.good("status", "--wait-ready=30s", uuid)
    flags = ("--stdin=stream", "--stdout=stream", "--stderr=stream")
    for name in ("one", "two"):
        box.good(
            "app", "add", uuid, NAME, f"--name={name}", *flags, "--exec=/bin/sh", "--", "-c", "sleep 1000"
        )
        done = box("attach", f"--app={name}", uuid)
        assert (done.code, "does not run" in done.err) == (254, True)
        box.good("app", "start", uuid, f"--app={name}")
    entry = box.good("cat-manifest", uuid).json["apps"][0]
    assert {"name": "coreos.com/rkt/stage2/stdin", "value": "stream"} in entry["annotations"]
    assert box.good("attach", "--mode=list", "--app=one", uuid).lines == ["stdin", "stdout"]
    done = box.good("attach", "--mode=stdin,stdout,stderr", "--app=one", uuid, stdin="word\n")
    assert (done.out, done.err) == ("one got word\n", "err\n")
    told = (box.data / "pods/run" / uuid / "attached").read_text().splitlines()
    assert told[-1] == (
        "--action=custom-attach --tty-in=false --tty-out=false --stdin=true --stdout=true --stderr=true "
        "--app=one --debug=false"
    )
    box.good("stop", uuid)
