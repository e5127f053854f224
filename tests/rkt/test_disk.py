"""Data directories on disks that are full, or may not be written to."""

import json
import subprocess

import pytest

pytestmark = pytest.mark.root


def shell(rkt, script, *arguments):
    """A script in a mount namespace of its own, where `rkt` is the command: exit codes and what was said."""
    (rkt.base / "rkt").write_text(f'#!/bin/sh\nexec {" ".join(rkt.command())} "$@"\n')
    (rkt.base / "rkt").chmod(0o755)
    given = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c"]
    head = 'PATH=$PATH:$1; data=$2; say() { "$@" > "$1.out" 2>&1; echo "$?: $* : $(tail -n 1 "$1.out")"; }; cd "$1"; '
    done = subprocess.run(
        [*given, head.replace("$1.out", "out") + script, "sh", rkt.base, rkt.data, *arguments],
        capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stderr == ""
    assert "Traceback" not in (rkt.base / "out").read_text()
    return done.stdout.splitlines()


def test_a_disk_without_room(rkt, images):
    """Everything fails with a line and leaves nothing; making room works, and then all else does."""
    script = """
    mkdir -p "$data"; mount -t tmpfs -o size=12m none "$data"; rkt fetch "$3" > /dev/null 2>&1
    uuid=$(rkt prepare example.com/box)
    cat /dev/zero > "$data/fill" 2> /dev/null
    say rkt prepare example.com/box; say rkt run-prepared --net=none $uuid; say rkt image gc --grace-period=0s
    rm "$data/fill"
    say rkt run-prepared --net=none $uuid; rkt gc --grace-period=0s > /dev/null 2>&1
    say rkt image gc --grace-period=0s
    find "$data/pods" "$data/store/layers" -mindepth 2
    """
    lines = shell(rkt, script, images.aci)
    codes = [int(line.partition(":")[0]) for line in lines[:5]]
    assert codes == [254, 254, 0, 0, 0], lines
    assert [line.endswith("No space left on device") for line in lines[:2]] == [True] * 2, lines
    assert lines[2].endswith("0 image(s) successfully removed")  # the pod needs it
    assert lines[3].endswith("hello")
    assert lines[5:] == [], lines


def test_a_disk_that_is_read_only(box):
    box.good("run", "--net=none", "example.com/box")
    [pod] = box.good("list", "--format=json").json
    script = """
    mount --bind "$data" "$data"; mount -o remount,bind,ro "$data"
    for verb in "status $3" "export $3 $PWD/out.aci" "rm $3" "image gc" "run --net=none example.com/box"; do
        say rkt $verb
    done
    """
    lines = shell(box, script, pod["name"])
    assert [line.partition(":")[0] for line in lines] == ["0"] * 2 + ["254"] * 3, lines
    assert all("Read-only file system" in line for line in lines[-3:]), lines
    assert json.loads(box.good("list", "--format=json").out) == [pod]
