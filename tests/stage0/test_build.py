"""`gantry image`: images that other tools accept, reproducible, and the store's commands."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor.stage0 import cli

pytestmark = pytest.mark.root


@pytest.fixture
def gantry(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run `gantry image …` in this process: .code, .out, .err."""

    def call(*argv: str | Path) -> SimpleNamespace:
        capfd.readouterr()
        code = cli.main([str(a) for a in argv])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def index(layout: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout / "index.json").read_text())
    return found


def test_tools_accept_it(gantry: Any, rootfs: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    target = tmp_path / "oci"
    done = gantry(
        "build", rootfs, "--oci", f"{target}:v1", "--entrypoint", '["/bin/sh", "-c"]', "--cmd", "echo 'a b'",
        "--env", "A=1", "--user", "7:8", "--workdir", "/tmp", "--stop-signal", "SIGINT", "--port", "80/tcp",
        "--volume", "/data", "--label", "k=v",
    )  # fmt: skip
    assert done.code == 0, done.err
    seen = json.loads(run("skopeo", "inspect", f"oci:{target}:v1"))
    assert seen["Digest"] in done.out
    assert seen["Labels"] == {"k": "v"}
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{target}:v1"))["config"]
    assert config == {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo", "a b"], "Env": ["A=1"], "User": "7:8", "WorkingDir": "/tmp",
        "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"k": "v"},
    }  # fmt: skip
    run("umoci", "unpack", "--image", f"{target}:v1", tmp_path / "bundle")
    run("diff", "-r", "--no-dereference", rootfs, tmp_path / "bundle/rootfs")
    info = (tmp_path / "bundle/rootfs/bin/busybox").stat()
    assert (info.st_mode & 0o7777, info.st_nlink) == (0o4755, 2)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_it_comes_back_the_same(
    compression: str, gantry: Any, rootfs: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    os.setxattr(rootfs / "bin/busybox", "user.note", b"kept")
    os.chown(rootfs / "tmp", 1234, 3_000_000)
    local = tmp_path / "local"
    assert gantry("build", rootfs, "--oci", f"{local}/app:v1", "--compression", compression).code == 0
    done = gantry(
        "fetch", "localhost/app:v1", "--state-dir", tmp_path / "s", "--local-images", local, "--json"
    )
    (image,) = json.loads(done.out)
    tree = Path(image["layers"][0])
    run("diff", "-r", "--no-dereference", rootfs, tree)
    assert os.getxattr(tree / "bin/busybox", "user.note") == b"kept"
    assert ((tree / "tmp").stat().st_uid, (tree / "tmp").stat().st_gid) == (1234, 3_000_000)
    assert "importing" in done.err


def test_the_same_input_gives_the_same_digest(gantry: Any, rootfs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rootfs, copy, symlinks=True, copy_function=shutil.copyfile)  # other inodes, other times
    (copy / "bin/ls").unlink()
    os.link(copy / "bin/busybox", copy / "bin/ls")
    for path in rootfs.rglob("*"):
        if not path.is_symlink():
            (copy / path.relative_to(rootfs)).chmod(path.stat().st_mode)
    for n, root in enumerate([rootfs, rootfs, copy]):
        assert gantry("build", root, "--oci", f"{tmp_path}/o{n}:x", "--cmd", "a b").code == 0
        assert (
            gantry(
                "build", root, "--aci", tmp_path / f"a{n}.aci", "--name", "example.com/a", "--cmd", "a b"
            ).code
            == 0
        )
    assert index(tmp_path / "o0") == index(tmp_path / "o1") == index(tmp_path / "o2")
    assert len({(tmp_path / f"a{n}.aci").read_bytes() for n in range(3)}) == 1
    (copy / "etc/hostname").write_text("different")
    assert gantry("build", copy, "--oci", f"{tmp_path}/o3:x", "--cmd", "a b").code == 0
    assert index(tmp_path / "o3") != index(tmp_path / "o0")


def test_times(gantry: Any, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(rootfs / "etc/hostname", (77, 77))

    def mtime(*options: str) -> float:
        name = f"{tmp_path}/o{len(list(tmp_path.iterdir()))}"
        assert gantry("build", rootfs, "--oci", f"{name}/app:x", *options).code == 0
        done = gantry(
            "fetch", "localhost/app:x", "--local-images", name, "--state-dir", f"{name}.state", "--json"
        )
        return (Path(json.loads(done.out)[0]["layers"][0]) / "etc/hostname").stat().st_mtime

    assert mtime() == 0
    assert mtime("--keep-mtimes") == 77
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")
    assert mtime() == 1000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert "SOURCE_DATE_EPOCH='soon'" in gantry("build", rootfs, "--oci", f"{tmp_path}/x:x").err


def test_tags_in_one_layout(gantry: Any, rootfs: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    target = tmp_path / "oci"
    for tag, cmd in (("a", "1"), ("b", "2"), ("a", "3")):
        assert gantry("build", rootfs, "--oci", f"{target}:{tag}", "--cmd", cmd).code == 0
    assert sorted(
        e["annotations"]["org.opencontainers.image.ref.name"] for e in index(target)["manifests"]
    ) == ["a", "b"]
    assert json.loads(run("skopeo", "inspect", "--config", f"oci:{target}:a"))["config"]["Cmd"] == ["3"]
    assert sorted(p.name for p in target.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert gantry("build", rootfs, "--oci", target).code == 0
    assert index(target)["manifests"][-1]["annotations"]["org.opencontainers.image.ref.name"] == "latest"


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "none"])
def test_an_aci_comes_back(
    compression: str, gantry: Any, rootfs: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    target = tmp_path / "a.aci"
    done = gantry(
        "build", rootfs, "--aci", target, "--name", "example.com/app", "--cmd", "/bin/sh -c true", "--env", "A=1",
        "--user", "7:8", "--workdir", "/tmp", "--port", "80/tcp", "--volume", "/var/data", "--label", "version=1.2",
        "--label", "k=v", "--compression", compression,
    )  # fmt: skip
    assert done.code == 0, done.err
    options = ("--state-dir", tmp_path / "s", "--json", "--quiet")
    assert "policy asks for it" in gantry("fetch", f"file://{target}", *options).err
    (tmp_path / "images.toml").write_text(f'[policy.prefixes]\n"file:{tmp_path}" = "none"\n')
    fetched = gantry("fetch", f"file://{target}", *options, "--image-config", tmp_path / "images.toml")
    assert fetched.err == ""
    (image,) = json.loads(fetched.out)
    assert image["id"] in done.out
    run("diff", "-r", "--no-dereference", rootfs, image["layers"][0])
    config = image["config"]
    assert (config["entrypoint"], config["user"], config["workingDir"]) == (
        ["/bin/sh", "-c", "true"],
        "7:8",
        "/tmp",
    )
    assert (config["ports"], config["volumes"], config["labels"]) == (["80/tcp"], ["/var/data"], {"k": "v"})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--oci", "{tmp}/o:bad tag"], "invalid tag"), (["--oci", "{tmp}/o:x", "--env", "A"], "NAME=VALUE"),
        (["--oci", "{tmp}/o:x", "--compression", "xz"], "not compressed with xz"),
        (["--oci", "{tmp}/o:x", "--name", "x"], "--name is for --aci"),
        (["--aci", "{tmp}/a.aci"], "name"), (["--aci", "{tmp}/a.aci", "--name", "Bad"], "AC identifier"),
        (["--aci", "{tmp}/a.aci", "--name", "x", "--compression", "zstd"], "not compressed with zstd"),
        (["--aci", "{tmp}/a.aci", "--name", "x", "--stop-signal", "INT"], "--stop-signal"),
        (["--aci", "{tmp}/none/a.aci", "--name", "x"], "No such file"),
        (["--oci", "/proc/nope/o:x"], "No such file"),
    ],
)  # fmt: skip
def test_refusals(argv: list[str], words: str, gantry: Any, rootfs: Path, tmp_path: Path) -> None:
    done = gantry("build", rootfs, *[a.format(tmp=tmp_path) for a in argv])
    assert done.code == 1
    assert done.err.startswith("gantry: error: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "target", [["--oci", "{tmp}/o:x"], ["--aci", "{tmp}/a.aci", "--name", "x"]], ids=["oci", "aci"]
)
def test_what_cannot_be_in_an_image(target: list[str], gantry: Any, rootfs: Path, tmp_path: Path) -> None:
    argv = [a.format(tmp=tmp_path) for a in target]
    os.mknod(rootfs / "null", 0o20600, os.makedev(1, 3))
    assert "device node cannot be part of an image" in gantry("build", rootfs, *argv).err
    (rootfs / "null").unlink()
    (rootfs / ".wh.x").touch()
    assert "mean removal" in gantry("build", rootfs, *argv).err
    assert "not a directory" in gantry("build", rootfs / "etc/hostname", *argv).err
    left = [p for p in tmp_path.rglob("*") if p.is_file() and rootfs not in p.parents]
    assert left == []


def test_wrong_arguments(gantry: Any, rootfs: Path) -> None:
    for argv in ([], ["build", str(rootfs)], ["nope"], ["build", str(rootfs), "--oci", "x", "--cmd", "'"]):
        with pytest.raises(SystemExit) as caught:
            gantry(*argv)
        assert caught.value.code == 2


def test_list_and_rm(gantry: Any, rootfs: Path, tmp_path: Path) -> None:
    local, state = tmp_path / "local", ("--state-dir", tmp_path / "state")
    assert json.loads(gantry("list", "--json", *state).out) == []
    gantry("build", rootfs, "--oci", f"{local}/app:a", "--cmd", "a")
    gantry("build", rootfs, "--oci", f"{local}/app:b", "--cmd", "b")
    gantry("build", rootfs / "etc", "--oci", f"{local}/etc:x")
    refs = ["localhost/app:a", "localhost/app:b", "localhost/etc:x", f"oci:{local}/app:a"]
    ids = gantry("fetch", *refs, "--local-images", local, *state).out.split()
    assert ids[0] == ids[3] != ids[1]
    rows = json.loads(gantry("list", "--json", *state).out)
    assert {row["id"]: row["names"] for row in rows} == {
        ids[0]: ["localhost/app:a", f"oci:{local}/app:a"], ids[1]: ["localhost/app:b"], ids[2]: ["localhost/etc:x"],
    }  # fmt: skip
    assert "localhost/app:b" in gantry("list", *state).out
    layers = tmp_path / "state/store/layers"
    assert len(list(layers.iterdir())) == 2
    assert gantry("rm", "localhost/app:a", *state).code == 0  # the image has another name
    assert ids[0] in gantry("list", "--json", *state).out
    assert gantry("rm", f"oci:{local}/app:a", *state).code == 0
    assert ids[0] not in gantry("list", "--json", *state).out
    assert len(list(layers.iterdir())) == 2  # app:b has the same layer
    assert gantry("rm", ids[1][:20], *state).code == 0
    assert len(list(layers.iterdir())) == 1
    removed = json.loads(gantry("rm", "localhost/etc:x", "--json", *state).out)["removed"]
    assert removed[:2] == ["localhost/etc:x", ids[2]]
    left = [p.name for p in (tmp_path / "state/store").rglob("*") if p.is_file()]
    assert sorted(left) == ["store", "version"]  # the store's lock and its layout number
    done = gantry("rm", "localhost/etc:x", *state)
    assert (done.code, "no such image in the store" in done.err) == (1, True)


def test_an_image_in_use_stays(gantry: Any, rootfs: Path, tmp_path: Path, mount: Callable[..., None]) -> None:
    local, state = tmp_path / "local", ("--state-dir", tmp_path / "state")
    gantry("build", rootfs, "--oci", f"{local}/app:a")
    gantry("build", rootfs / "etc", "--oci", f"{local}/app:b")
    done = gantry("fetch", "localhost/app:a", "localhost/app:b", "--local-images", local, "--json", *state)
    lower = ":".join(image["layers"][0] for image in json.loads(done.out))
    mount(tmp_path / "merged", "overlay", f"lowerdir={lower}")
    done = gantry("rm", "localhost/app:a", *state)
    assert done.code == 1
    assert "is in use by process" in done.err
    assert "localhost/app:a" in gantry("list", *state).out


def test_errors_of_fetch(gantry: Any, tmp_path: Path) -> None:
    done = gantry(
        "fetch", "localhost/nope", "--local-images", tmp_path, "--state-dir", tmp_path / "s", "--quiet"
    )
    assert (done.code, done.out) == (1, "")
    assert done.err == f"gantry: error: localhost/nope: no such image in {tmp_path} (there are: none)\n"


def test_the_command_itself(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gantry", "image", "list", "--state-dir", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["NAME", "ID", "LAYERS", "SIZE", "VERIFIED", "IMPORTED"]
