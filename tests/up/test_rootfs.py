"""The demo image's root file system, made of this machine's programs."""

import subprocess

import pytest

from local import rootfs


def test_its_shell_runs_in_it(tmp_path):
    target = tmp_path / "rootfs"
    rootfs.build(target)
    assert (target / "etc" / "passwd").read_text().startswith("root:x:0:0")
    for name in rootfs.REQUIRED:
        assert (target / "bin" / name).is_file()
        assert not (target / "bin" / name).is_symlink()


@pytest.mark.root
def test_chroot_into_it(tmp_path):
    target = tmp_path / "rootfs"
    rootfs.build(target)
    probe = subprocess.run(
        ["chroot", target, "/bin/sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True
    )
    if "Operation not permitted" in probe.stderr:
        pytest.skip("not allowed to chroot here")
    assert (probe.stdout, probe.stderr) == ("42\n", "")


def test_a_machine_without_a_shell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rootfs, "REQUIRED", ("sh", "no-such-program"))
    with pytest.raises(rootfs.RootfsError, match="no-such-program"):
        rootfs.build(tmp_path / "rootfs")
