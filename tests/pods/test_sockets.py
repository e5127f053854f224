"""Ports of images that are `socketActivated`: apps find them open, in their pod's network."""

from pathlib import Path
from typing import Any

import pytest

from executor.stage0.acmanifest import host_labels
from executor.stage0.build import Options, build_aci

pytestmark = pytest.mark.root

Host = Any


async def test_they_are_open_at_each_start(host: Host, rootfs: Path, tmp_path: Path) -> None:
    ports = [
        {"name": name, "protocol": protocol, "port": port, "socketActivated": activated}
        for name, protocol, port, activated in (
            ("http", "tcp", 80, True),
            ("dns", "udp", 53, True),
            ("other", "tcp", 81, False),
        )
    ]
    manifest = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "example.com/served",
        "labels": [{"name": name, "value": value} for name, value in host_labels().items()],
        "app": {"exec": ["/bin/sh"], "user": "0", "group": "0", "ports": ports},
    }
    build_aci(rootfs, tmp_path / "served.aci", manifest, Options(), "none")
    script = """
    test $LISTEN_PID = $$$$ && echo $LISTEN_FDS $LISTEN_FDNAMES; ls /proc/self/fd | wc -l
    grep -c ':0050 .* 0A ' /proc/net/tcp6; grep -c ':0035 ' /proc/net/udp6
    test -e /v/again || { echo > /v/again; exit 1; }
    """
    task = host.run(
        {
            "image": f"file://{tmp_path}/served.aci",
            "run": script,
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        },
        restartPolicy="OnFailure",
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    report = await host.end(task)
    assert report.state == "TASK_FINISHED"
    [status] = report.status["containerStatuses"]
    assert status["restartCount"] == 1
    assert (await host.log("p")).splitlines() == ["2 http:dns", "6", "1", "1"]
