"""sd_notify: what systemd hears of a pod, and of its apps by way of it."""

import os
import select
import shutil
import socket
from glob import glob

import pytest

from executor.stage0 import acmanifest, build

NOTIFY = shutil.which("systemd-notify")
LOADER = os.path.realpath(next(iter(glob("/lib*/ld-linux-*.so.*")), "/"))
LIBRARIES = ":".join(
    f"/host{base}{below}" for base in glob("/usr/lib/*-linux-gnu") for below in ("", "/systemd")
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not NOTIFY or LOADER == "/", reason="needs systemd-notify"),
]


@pytest.fixture
def heard(tmp_path):
    """heard(): the next message to the socket at `path`, waiting for it; heard.none(): whether there is none yet."""

    class Heard:
        path = str(tmp_path / "notify")

        def __init__(self):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind(self.path)
            self.sock.settimeout(20)

        def __call__(self):
            return self.sock.recv(4096).decode()

        def none(self):
            return not select.select([self.sock], [], [], 0)[0]

    made = Heard()
    yield made
    made.sock.close()


@pytest.fixture
def telling(rkt, images):
    """An image whose apps tell when they are ready."""
    options = build.Options(entrypoint=("/bin/sh", "-c"), compression="none")
    manifest = acmanifest.manifest_for("example.com/telling", options)
    manifest["annotations"] = [{"name": "appc.io/executor/supports-systemd-notify", "value": "true"}]
    manifest["app"] |= {"user": "1234", "group": "2345"}
    build.build_aci(images.rootfs, rkt.base / "telling.aci", manifest, options, "none")
    rkt.good("fetch", rkt.base / "telling.aci")
    return "example.com/telling"


def start(rkt, heard, *args):
    flags = (
        "run",
        "--net=none",
        f"--uuid-file-save={rkt.base}/uuid",
        "--volume=host,kind=host,source=/,readOnly=true",
    )
    return rkt.start(*flags, *args, env={**os.environ, "NOTIFY_SOCKET": heard.path})


def test_a_pod_is_ready_when_its_apps_have_started(rkt, images, heard):
    process = start(rkt, heard, images.aci, "--exec=/bin/sleep", "--", "100")
    assert heard() == "READY=1"
    process.terminate()
    assert heard() == "STOPPING=1"
    assert process.wait(60) == 0


def test_an_app_may_tell_when_it_is(rkt, heard, telling):
    """Nothing is said before; of what it says only READY and STATUS come out."""
    say = f"/host{LOADER} --library-path {LIBRARIES} /host{os.path.realpath(NOTIFY)}"
    script = (
        f"until test -e /m/go; do sleep 0.05; done; {say} MAINPID=1 && {say} --status=warm --ready; sleep 100"
    )
    flags = (
        "--mount=volume=host,target=/host",
        "--volume=m,kind=empty,mode=0777",
        "--mount=volume=m,target=/m",
    )
    process = start(rkt, heard, telling, *flags, "--exec=/bin/sh", "--", "-c", script)
    while (uuid := read(rkt.base / "uuid")) == "" or "state=running" not in rkt("status", uuid).lines:
        assert process.poll() is None, process.stderr.read()
    while (done := rkt("enter", uuid, "/bin/sh", "-c", "id -u; echo $NOTIFY_SOCKET")).code:
        assert process.poll() is None, process.stderr.read()
    assert done.lines == ["1234", "/run/systemd/notify"]
    assert heard.none()
    rkt.good("enter", uuid, "/bin/touch", "/m/go")
    assert heard() == "STATUS=warm"
    assert heard() == "READY=1"
    rkt.good("status", "--wait-ready=20s", uuid)
    process.terminate()
    assert heard() == "STOPPING=1"


def read(path):
    return path.read_text() if path.exists() else ""
