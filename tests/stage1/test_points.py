"""The layer of mount points below an image: what it spares an app's own layer, and when it is left out."""

import os
from pathlib import Path
from typing import Any

import pytest

from executor.stage1.points import DIRECTORIES, FILES, Points


def test_is_made_once_and_comes_last(tmp_path: Path) -> None:
    place = tmp_path / "points"
    lower = tmp_path / "layer"
    lower.mkdir()
    for _ in range(2):
        assert Points(str(place)).below((str(lower),)) == (str(lower), str(place))
    assert sorted(str(one.relative_to(place)) for one in place.rglob("*")) == sorted((*DIRECTORIES, *FILES))


def test_is_left_out_where_it_would_not_do(tmp_path: Path) -> None:
    lower, points = str(tmp_path), Points(str(tmp_path / "points"))
    assert Points().below((lower,)) == (lower,)
    assert points.below(("/proc",)) == ("/proc",), "another file system"
    assert points.below((lower,) * 100) == (lower,) * 100, "many layers"
    assert points.below((f"{lower}/missing",)) == (f"{lower}/missing",)
    (tmp_path / "points/etc/resolv.conf").unlink()
    assert points.below((lower,)) == (lower,), "somebody removed it"


def test_goes_without_where_it_cannot_be_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert Points(str(tmp_path / "file" / "points")).below((str(tmp_path),)) == (str(tmp_path),)
    assert "Not a directory" in capfd.readouterr().err


@pytest.mark.root
async def test_an_app_that_only_reads_has_nothing_written_to_its_layer(runner: Any) -> None:
    script = "cat /etc/hostname; stat -c '%n %U:%G %a' /etc /etc/hosts; grep -c ' /etc/' /proc/mounts"
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script)))
    _, output = await running.start()
    await running.ended()
    said = (await output.text()).splitlines()
    assert said == ["pod-host", "/etc root:root 755", "/etc/hosts root:root 644", "3"]
    assert os.listdir(running.directory / "overlay/app/upper") == []


@pytest.mark.root
async def test_an_image_s_own_layer_wins(runner: Any, tmp_path: Path) -> None:
    """And one that hides what is below it gets its mount points in the app's layer, as ever."""
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True, mode=0o711)
    (layer / "etc").chmod(0o711)
    os.setxattr(layer / "etc", "trusted.overlay.opaque", b"y")
    app = runner.pods.app("/bin/sh", "-c", "stat -c %a /etc; ls /etc; cat /etc/hostname")
    running = await runner.pod(runner.pods.make(app, layers=(layer,)))
    _, output = await running.start()
    await running.ended()
    assert (await output.text()).split() == ["711", "hostname", "hosts", "resolv.conf", "pod-host"]
    assert sorted(os.listdir(running.directory / "overlay/app/upper/etc")) == [
        "hostname",
        "hosts",
        "resolv.conf",
    ]
