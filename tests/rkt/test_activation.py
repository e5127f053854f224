"""Ports that are `socketActivated`: sockets that come from systemd, or are opened for an app."""

import os
import socket
import subprocess
import sys

import pytest

from executor.rkt.activation import Activation
from executor.rkt.flags import Failure
from executor.stage0 import acmanifest, build
from tests.ports import free_ports

SERVER = """
import os, socket
assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
for number, name in enumerate(names[:int(os.environ["LISTEN_FDS"])]):
    one = socket.socket(fileno=3 + number)
    if one.type == socket.SOCK_DGRAM:
        data, who = one.recvfrom(100)
        one.sendto(name.encode() + b" " + data, who)
    else:
        connection, _ = one.accept()
        connection.sendall(name.encode())
        connection.close()
"""
pytestmark = pytest.mark.root


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def image(images, tmp_path):
    """Makes an ACI with these ports: (name, protocol, port)."""

    def make(*wanted):
        options = build.Options(
            entrypoint=("/bin/sh",), cmd=("-c", "echo $LISTEN_FDS"), labels={"version": "1.0"}, compression="none"
        )  # fmt: skip
        manifest = acmanifest.manifest_for("example.com/served", options)
        manifest["app"]["ports"] = [
            {"name": name, "protocol": protocol, "port": port, "socketActivated": True}
            for name, protocol, port in wanted
        ]
        build.build_aci(images.rootfs, tmp_path / "served.aci", manifest, options, "none")
        return str(tmp_path / "served.aci")

    return make


def python():
    """Flags: run the server with this machine's interpreter."""
    places = {"/usr", "/lib", "/lib64", os.path.realpath(sys.base_prefix)}
    flags = []
    for number, place in enumerate(sorted(p for p in places if p == "/usr" or not p.startswith("/usr/"))):
        flags += [f"--volume=v{number},kind=host,source={place},readOnly=true"]
        flags += [f"--mount=volume=v{number},target={place}"]
    return [*flags, f"--exec={os.path.realpath(sys.executable)}", "--", "-I", "-S", "-c", SERVER]


def handed(rkt, sockets, *args):
    """`run` as systemd starts it, with these sockets from descriptor 3 on."""
    moved = " ".join(f"{3 + number}<&{one.fileno()}" for number, one in enumerate(sockets))
    script = f'exec {moved}; LISTEN_FDS={len(sockets)} LISTEN_PID=$$ exec "$@"'
    command = [sys.executable, "-m", "executor.rkt.cli", *rkt.flags, "run", *args]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "bash", "-c", script, "-", *command],
        pass_fds=[one.fileno() for one in sockets], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    rkt.started.append(process)
    return process


def ask(address):
    with socket.create_connection(address, timeout=60) as one:
        return one.makefile().read()


@pytest.mark.parametrize("flavor", ["coreos", "fly"])
def test_systemds_sockets_are_the_apps(rkt, image, listening, flavor):
    """That of no port is not handed on, and told of."""
    aci = image(("http", "tcp", listening.getsockname()[1]))
    with socket.create_server(("127.0.0.1", 0)) as other:
        flags = ["--net=none", f"--stage1-name=coreos.com/rkt/stage1-{flavor}", aci]
        process = handed(rkt, [other, listening], *flags, *python())
        assert ask(listening.getsockname()) == "http", process.stderr.read()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "assuming port" in err
        assert f"127.0.0.1:{other.getsockname()[1]} from systemd is for no socket-activated port" in err


def test_what_nobody_hands_over_is_opened(rkt, image):
    tcp, udp = free_ports(2)
    aci = image(("http", "tcp", tcp), ("dns", "udp", udp))
    file = rkt.base / "uuid"
    os.mkfifo(file)
    process = rkt.start("run", "--net=host", f"--uuid-file-save={file}", aci, *python())
    uuid = file.read_text()
    rkt.good("status", "--wait-ready=60s", uuid)
    assert ask(("127.0.0.1", tcp)) == "http"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(60)
        one.sendto(b"?", ("127.0.0.1", udp))
        assert one.recv(100) == b"dns ?"
    assert process.wait(60) == 0, process.stderr.read()


def test_sockets_that_nobody_wants_are_refused(rkt, images, listening):
    process = handed(rkt, [listening], "--net=none", images.aci)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 254
    assert "LISTEN_FDS): no app of the pod has a socket-activated port" in err


def test_a_machine_takes_none(rkt, image, listening):
    flags = ["--net=none", "--stage1-name=coreos.com/rkt/stage1-kvm"]
    process = handed(rkt, [listening], *flags, image(("http", "tcp", listening.getsockname()[1])))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 254
    assert "port http is socket-activated: stage1-kvm" in err


def test_nor_do_apps_that_come_later_to_one():
    port = {"name": "http", "protocol": "tcp", "port": 80, "socketActivated": True}
    manifest = {"apps": [], "annotations": [{"name": "gantry.io/flavor", "value": "kvm"}]}
    with pytest.raises(Failure, match="port http is socket-activated: stage1-kvm"):
        Activation(()).of(manifest, {"name": "a", "app": {"ports": [port]}}, os.getpid())


def test_of_a_protocol_without_such_sockets(rkt, image):
    done = rkt("run", "--net=none", image(("x", "sctp", 80)))
    assert done.code == 254
    assert "port x: 'sctp' cannot be socket-activated" in done.err
