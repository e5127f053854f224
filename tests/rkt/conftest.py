"""Fixtures of the tests of `gantry rkt`: an image in three forms, data directories, and the command as a process."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from executor.rkt.cli import main
from executor.stage0 import acmanifest, build
from executor.stage0.manifest import host_platform
from tests.ground import put_busybox, skip_root_tests, why_no_pods

SECONDS = 90.0
HERE = frozenset(["fetch", "trust", "image", "prepare", "list", "cat-manifest", "rm", "gc", "export"])
"""Verbs that need no process of their own: that saves the start of one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_root_tests(items, "rkt", why_no_pods())


@dataclass
class Images:
    """Files that can be fetched: `aci` is example.com/box:1.0, `oci` has a volume on /data."""

    aci: str
    oci: str
    rootfs: Path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Static busybox; an empty environment but for WHO=image."""
    base = tmp_path_factory.mktemp("images")
    root = base / "rootfs"
    for name in ("bin", "etc", "tmp", "data"):
        (root / name).mkdir(parents=True)
    put_busybox(
        root, "sh cat echo env grep false hostname id kill ls mount rm sed sleep stty touch true tty wget"
    )
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1234:2345::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:2345:\n")
    (root / "etc/unique").write_text(
        str(uuid.uuid4())
    )  # what runs elsewhere with this image would keep it in use
    (root / "data/file").write_text("of the image\n")
    os.chown(root / "data", 7, 8)
    options = build.Options(
        entrypoint=("/bin/sh", "-c"),
        cmd=("echo hello",),
        env=("WHO=image",),
        labels={"version": "1.0"},
        compression="none",
    )
    build.build_aci(
        root, base / "box.aci", acmanifest.manifest_for("example.com/box", options), options, "none"
    )
    options = build.Options(entrypoint=("/bin/cat", "/data/file"), volumes=("/data",))
    build.build_oci(root, base / "layout", "box", options)
    return Images(str(base / "box.aci"), f"oci:{base}/layout:box", root)


@dataclass
class Done:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Rkt:
    """`gantry rkt` with a data directory and configuration of its own; nothing is asked of signatures, but with
    `strict`."""

    base: Path
    strict: bool = False
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def flags(self) -> list[str]:
        made = [f"--dir={self.data}", f"--local-config={self.base}/etc", f"--system-config={self.base}/usr"]
        return made if self.strict else [*made, "--insecure-options=image"]

    def command(self, *args: str | Path) -> list[str]:
        """It dies with us, and its pod with it."""
        return [
            "setpriv",
            "--pdeathsig",
            "KILL",
            sys.executable,
            "-m",
            "executor.rkt.cli",
            *self.flags,
            *map(str, args),
        ]

    def __call__(
        self,
        *args: str | Path,
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> Done:
        here = args[0] in HERE or (args[0] == "app" and args[1] not in {"sandbox", "exec"})
        if here and env is None:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([*self.flags, *map(str, args)])
            return Done(code, out.getvalue(), err.getvalue())
        done = subprocess.run(
            self.command(*args), input=stdin, capture_output=True, text=True, check=False, timeout=seconds,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *args: str | Path, **more: Any) -> Done:
        done = self(*args, **more)
        assert done.code == 0, done.err
        return done

    def start(self, *args: str | Path, **more: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.command(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            **more,
        )  # fmt: skip
        self.started.append(process)
        return process

    def running(self, *args: str | Path) -> tuple["subprocess.Popen[str]", str]:
        """Start `run` and wait until the pod is ready; with its UUID."""
        file = self.base / f"uuid{len(self.started)}"
        os.mkfifo(file)
        process = self.start("run", "--net=none", f"--uuid-file-save={file}", *args)
        uuid = file.read_text()
        self.good("status", "--wait-ready=20s", uuid)
        return process, uuid

    def sh(self, script: str, *flags: str) -> Done:
        """A script in a pod of its own."""
        return self("run", "--net=none", "example.com/box", *flags, "--exec=/bin/sh", "--", "-c", script)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate(timeout=SECONDS)


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[Rkt]:
    """For tests that only run pods: the images are there."""
    rkt = Rkt(tmp_path_factory.mktemp("rkt"))
    rkt.good("fetch", images.aci, images.oci)
    yield rkt
    rkt.close()


@pytest.fixture
def rkt(tmp_path: Path) -> Iterator[Rkt]:
    """An empty one."""
    made = Rkt(tmp_path)
    yield made
    made.close()


@pytest.fixture
def box(rkt: Rkt, images: Images) -> Rkt:
    """One of this test's own with the ACI."""
    rkt.good("fetch", images.aci)
    return rkt


@pytest.fixture
def traces() -> Callable[[str], list[str]]:
    """Processes of a pod, by their cgroups and mounts."""

    def look(uuid: str) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen = (process / "cgroup").read_text() + (process / "mountinfo").read_text()
            except OSError:
                continue
            if uuid in seen:
                found.append(f"{process.name} {(process / 'comm').read_text()}")
        return found

    return look


@pytest.fixture
def signed(images, tmp_path):
    """(ACI with a signature beside it, the public key's file)."""
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    subprocess.run([*gpg, "--quick-generate-key", "Tester <t@example.com>", "ed25519", "sign"], check=True,
                   capture_output=True)  # fmt: skip
    aci = tmp_path / "box.aci"
    shutil.copy(images.aci, aci)
    subprocess.run([*gpg, "--armor", "--output", f"{aci}.asc", "--detach-sign", str(aci)], check=True)
    key = tmp_path / "key.asc"
    subprocess.run([*gpg, "--armor", "--output", str(key), "--export"], check=True)
    yield aci, key
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


STAGE1_RUN = """
set -e
for uuid; do :; done
echo "$@" > run-arguments
for app in $(ls appsinfo); do
    root=stage1/rootfs/opt/stage2/$app/rootfs
    mount --bind /proc "$root/proc" 2> /dev/null || { mkdir -p "$root/proc"; mount --bind /proc "$root/proc"; }
done
script=$(tr '{' '\\n' < pod | sed -n 's/.*"exec": \\["\\/bin\\/sh", "-c", "\\([^"]*\\)"\\].*/\\1/p' | head -n 1)
echo $$ > pid
exec chroot "$PWD/$root" /bin/sh -c "$script"
"""
_ENTER = 'pid=${1#--pid=}; shift 3; exec chroot "/proc/$pid/root" "$@"'
_STOP = 'echo "$@" >> stop-arguments; kill -TERM "$(cat pid)"'
_GC = 'echo "$@" >> "$COLLECTED"'


@pytest.fixture
def stage1(tmp_path: Path) -> Callable[..., str]:
    """A stage1 of one app in a chroot: its file. collected: a file that its `gc` writes its arguments to."""

    def make(name: str = "example.com/stage1-own", *, version: int = 6, **replaced: str) -> str:
        where = tmp_path / f"stage1-{len(list(tmp_path.iterdir()))}"
        root = where / "rootfs"
        root.mkdir(parents=True)
        scripts = {
            "run": STAGE1_RUN,
            "enter": _ENTER,
            "stop": _STOP,
            "gc": f"COLLECTED={tmp_path}/collected; {_GC}",
        } | replaced
        notes = [{"name": "coreos.com/rkt/stage1/interface-version", "value": str(version)}]
        for entrypoint, script in scripts.items():
            (root / entrypoint).write_text(f"#!/bin/sh\n{script}\n")
            (root / entrypoint).chmod(0o755)
            notes.append({"name": f"coreos.com/rkt/stage1/{entrypoint}", "value": f"/{entrypoint}"})
        arch = {"arm64": "aarch64"}.get(host_platform()[1], host_platform()[1])
        labels = {"version": "1.2", "os": "linux", "arch": arch}
        manifest = {
            "acKind": "ImageManifest", "acVersion": "0.8.11", "name": name, "annotations": notes,
            "labels": [{"name": key, "value": value} for key, value in labels.items()],
        }  # fmt: skip
        build.build_aci(root, where / "own.aci", manifest, build.Options(), "none")
        return str(where / "own.aci")

    return make


@pytest.fixture
def stage1_run() -> str:
    """Its `run`, for others that differ a little."""
    return STAGE1_RUN
