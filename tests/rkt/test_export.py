"""`export`: what an app has made of its image, whatever that is."""

import os
import socket
import stat
import tarfile

import pytest

from executor.stage0.removal import remove_tree


@pytest.mark.root
def test_export(box):
    box.sh("echo mine >/data/mine; rm /data/file; touch /tmp/x")
    (row,) = box.good("list", "--format=json").json
    target = box.base / "out.aci"
    box.good("export", row["name"], target)
    assert "output ACI file exists" in box("export", row["name"], target).err
    assert "extension must be .aci" in box("export", row["name"], "x.tar").err
    fresh = type(box)(box.base / "fresh")
    fresh.base.mkdir()
    fresh.good("fetch", target)
    assert fresh.sh("ls /data /tmp; echo $WHO").lines == ["/data:", "mine", "", "/tmp:", "x", "image"]


@pytest.fixture
def removed(box):
    """Trees that are too deep for pytest to remove them."""
    yield
    remove_tree(box.data / "pods")


@pytest.mark.root
def test_whatever_an_app_leaves_is_exported_or_named(box, removed, tmp_path):
    deep = "busybox seq -s / 1050 | busybox sed 's/[0-9]*/d/g'"
    box.sh(
        f"cd /tmp; busybox mkdir -p $({deep}); busybox mkfifo pipe; echo x > 'a\nb'; "
        "busybox ln -s /tmp/nowhere link"
    )
    (row,) = box.good("list", "--format=json").json
    with socket.socket(socket.AF_UNIX) as left:  # busybox makes none
        upper = box.data / "pods/run" / row["name"] / f"overlay/{row['app_names'][0]}/upper"
        at = os.open(upper / "tmp", os.O_PATH)
        left.bind(f"/proc/self/fd/{at}/socket")
        os.close(at)
    done = box.good("export", row["name"], tmp_path / "out.aci")
    assert "warning: /tmp/socket: a socket, left out" in done.err
    with tarfile.open(tmp_path / "out.aci") as tar:
        names = set(tar.getnames())
    assert "rootfs/tmp" + 1050 * "/d" in names
    assert {"rootfs/tmp/pipe", "rootfs/tmp/a\nb", "rootfs/tmp/link"} <= names
    assert "rootfs/tmp/socket" not in names
    os.mknod(upper / "tmp/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    done = box("export", "--overwrite", row["name"], tmp_path / "out.aci")
    assert (done.code, "tmp/zero: a device node cannot be part of an image" in done.err) == (254, True)
    (upper / "tmp/zero").unlink()
    top = os.open(upper / "tmp" / "/".join(1050 * "d"), os.O_PATH)
    for _ in range(10):
        os.mkdir(250 * "e", dir_fd=top)
        below = os.open(250 * "e", os.O_PATH, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    done = box("export", "--overwrite", row["name"], tmp_path / "out.aci")
    assert (done.code, done.err[-20:], len(done.err) < 300) == (254, " File name too long\n", True)
    assert [one.name for one in tmp_path.iterdir() if "out" in one.name] == ["out.aci"]
