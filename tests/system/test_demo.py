"""`make run`'s main job, and what `gantry up` says when it cannot start."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.xdist_group("demo")]


def gantry(*args):
    return subprocess.run(
        [sys.executable, "-m", "gantry", *args], capture_output=True, text=True, timeout=150
    )


def test_the_demo_runs_a_pod_and_cleans_up(can_run_pods):
    done = gantry("demo", "--manifest", "examples/hello.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| Hello from pod hello on node agent-1" in done.stdout
    assert "phase Running, on node agent-1" in done.stdout
    assert "everything is cleaned up" in done.stdout


def test_a_manifest_that_is_refused_fails_the_demo(can_run_pods, tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: x}]}}")
    done = gantry("demo", "--manifest", str(path))
    assert done.returncode == 1
    assert "spec.containers[0].image" in done.stderr


@pytest.mark.parametrize("content", ["just words", "a: [b", "{kind: Pod, metadata: nothing}", "\0"])
def test_a_manifest_that_is_no_pod_is_refused_before_anything_starts(tmp_path, content):
    path = tmp_path / "pod.yaml"
    path.write_text(content)
    done = gantry("demo", "--manifest", str(path))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, "")
    assert f"--manifest {path}: not " in done.stderr


def test_an_interrupted_command_says_so_in_one_line():
    # Whoever is started in the background of a shell ignores SIGINT, and so would all below.
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from gantry.__main__ import main; sys.exit(main(['rotate-keys', '--store', 'zk://127.0.0.1:1/x']))"
    )
    key = {**os.environ, "GANTRY_ENCRYPTION_KEY": "00" * 32}
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=key
    ) as process:
        assert process.stderr is not None
        assert "waiting for ZooKeeper" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, said.splitlines()[-1]) == (130, "gantry rotate-keys: interrupted")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--agents", "none"], "--agents"),
        (["--listen", "nowhere"], "--listen nowhere"),
        (["--agents", "0"], "--agents 0"),
    ],
)
def test_up_names_a_wrong_argument(can_run_pods, tmp_path, arguments, named):
    done = gantry("up", "--data-dir", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert named in done.stderr


def test_up_on_a_full_disk_says_so_in_one_line(can_run_pods, tmp_path):
    script = (
        "mount -t tmpfs -o size=64k none $1 && exec $2 -m gantry up --listen 127.0.0.1:0 --data-dir $1/data"
    )
    command = ["unshare", "--mount", "sh", "-c", script, "-", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"gantry up: error: --data-dir {tmp_path}/data: ")
    assert done.stderr.endswith(": No space left on device\n")


def test_up_without_root_says_what_to_do(can_run_pods, tmp_path):
    tmp_path.chmod(0o777)
    script = "import os, sys; from local.up import main; os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "need root: run it as root" in done.stderr
