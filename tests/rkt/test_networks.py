"""Networks of pods, by real plugins: --net, --port, /etc, and what kills leave.

"This machine" has a network and a /var/lib of its own: nothing is changed but there.
"""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.network import record
from executor.network.namespaces import within
from executor.network.plan import Attachment, Plan, Step
from executor.network.plugins import PLACES
from executor.network.rates import Rates
from executor.pods.poddir import Phase, PodDirs
from executor.rkt import networks
from executor.rkt.cli import main
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.stage0 import acmanifest, build
from tests.waiting import until

MISSING = [
    name
    for name in ("ptp", "host-local", "portmap", "bandwidth")
    if not shutil.which(name, path=":".join(PLACES))
]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: containernetworking-plugins"),
    pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables"),
]

SERVE = ["--exec=/bin/busybox", "--", "nc", "-ll", "-p", "80", "-e", "/bin/echo", "served"]


class Machine:
    """Commands in the namespaces of a process; `rkt` is the fixture of that name, there."""

    def __init__(self, rkt: Any, pid: int) -> None:
        self.rkt, self.pid = rkt, pid

    def sh(self, *words: str) -> str:
        return subprocess.check_output([*self.prefix, *words], text=True)

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-m", f"--wd={os.getcwd()}"]

    def network(self, file: str, **fields: Any) -> None:
        directory = self.rkt.base / "etc/net.d"
        directory.mkdir(parents=True, exist_ok=True)
        ipam = {"type": "host-local", "subnet": "10.93.0.0/24"}
        (directory / file).write_text(json.dumps({"type": "ptp", "ipMasq": True, "ipam": ipam, **fields}))

    def get(self, address: str, port: int) -> str:
        """What a server says to who connects from this machine, once it listens."""

        def ask() -> str:
            try:
                with within(self.pid, lambda: socket.create_connection((address, port), 20)) as connection:
                    return connection.recv(100).decode()
            except (ConnectionRefusedError, ConnectionResetError):
                return ""

        return until(f"a server on {address}:{port}", ask)

    def left(self) -> list[str]:
        """Interfaces, rules and addresses of pods."""
        links = [link["ifname"] for link in json.loads(self.sh("ip", "-j", "link"))]
        rules = [line for line in self.sh("iptables-save", "-t", "nat").splitlines() if "name: " in line]
        leases = self.sh("find", "/var/lib/cni", "-name", "*.*.*.*").split()
        return [link for link in links if link.startswith("veth")] + rules + leases

    def nothing_left(self) -> None:
        # Interfaces of a namespace that nobody has any more go when the kernel comes to it.
        until("nothing to be left", lambda: not self.left(), why=lambda: str(self.left()))


@pytest.fixture
def machine(rkt: Any, images: Any, tmp_path: Path) -> Iterator[Machine]:
    """With example.com/web in its store, which has a port `http`, and an /etc/hosts."""
    script = "mount -t tmpfs x /var/lib && mkdir /var/lib/cni && ip link set lo up && echo && exec sleep 1000"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "-m", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        made = Machine(rkt, process.pid)
        plain = rkt.command
        rkt.command = lambda *args: [*made.prefix, *plain(*args)]
        rkt.good("fetch", images.aci, _web(images, tmp_path))
        try:
            yield made
        finally:
            rkt.close()
            process.kill()


def _web(images: Any, where: Path) -> str:
    root = where / "rootfs"
    shutil.copytree(images.rootfs, root, symlinks=True)
    (root / "etc/hosts").write_text("127.0.0.1 of-the-image\n")
    (root / "etc/resolv.conf").write_text("nameserver 203.0.113.1\n")
    options = build.Options(entrypoint=("/bin/true",), compression="none")
    manifest = acmanifest.manifest_for("example.com/web", options)
    manifest["app"]["ports"] = [{"name": "http", "port": 80, "protocol": "tcp"}]
    build.build_aci(root, where / "web.aci", manifest, options, "none")
    return str(where / "web.aci")


def running(machine: Machine, *args: str) -> tuple["subprocess.Popen[str]", str]:
    """Start `run` and wait until the pod is ready; with its UUID."""
    rkt = machine.rkt
    file = rkt.base / f"fifo{len(rkt.started)}"
    os.mkfifo(file)
    process = rkt.start("run", f"--uuid-file-save={file}", *args)
    uuid = file.read_text()
    rkt.good("status", "--wait-ready=100s", uuid)
    return process, uuid


def test_the_default_network_ports_and_their_end(machine: Machine) -> None:
    process, uuid = running(machine, "--port=http:8080", "example.com/web", *SERVE)
    rkt = machine.rkt
    assert "networks=default:ip4=172.16.28.2" in rkt.good("status", uuid).lines
    assert rkt.good("list", "--no-legend").out.endswith("default:ip4=172.16.28.2\n")
    (told,) = rkt.good("status", "--format=json", uuid).json["networks"]
    assert (told["netName"], told["ip"], told["mask"], told["ifName"]) == (
        "default",
        "172.16.28.2",
        "255.255.255.0",
        "eth0",
    )
    assert "default via 172.16.28.1" in machine.sh("nsenter", "-t", _pid(rkt, uuid), "-n", "ip", "route")
    for address, port in (("172.16.28.2", 80), ("172.16.28.1", 8080), ("127.0.0.1", 8080)):
        assert machine.get(address, port) == "served\n"
    taken = rkt("run", "--port=http:127.0.0.1:8080", "example.com/web")
    assert taken.code == 254
    assert f"port tcp-127.0.0.1:8080: pod {uuid} has tcp-0.0.0.0:8080 already" in taken.err
    rkt.good("stop", uuid)
    process.wait(timeout=100)
    machine.nothing_left()
    assert "networks=default:ip4=172.16.28.2" in rkt.good("status", uuid).lines


def _pid(rkt: Any, uuid: str) -> str:
    return next(line for line in rkt.good("status", uuid).lines if line.startswith("pid=")).removeprefix(
        "pid="
    )


def test_a_pod_that_was_killed_gives_way_to_the_next(machine: Machine) -> None:
    flags = ["--net=default:IP=172.16.28.99", "--port=http:8080", "example.com/web", *SERVE]
    process, first = running(machine, *flags)
    process.kill()
    process.wait()
    machine.rkt.good("status", "--wait=100s", first)
    process, second = running(machine, *flags)
    assert machine.get("127.0.0.1", 8080) == "served\n"
    assert len(machine.left()) > 0
    process.kill()
    process.wait()
    machine.rkt.good("status", "--wait=100s", second)
    collect = machine.rkt.command("gc", "--grace-period=0s")  # in a process of its own: over there
    assert "Garbage collecting" in subprocess.check_output(collect, text=True)
    machine.nothing_left()


def test_whoever_is_killed_with_a_plugin_that_has_not_answered(machine: Machine) -> None:
    """Nor do kills between plugins leave anything: it is taken down who has begun."""
    rkt = machine.rkt
    fifo = rkt.base / "fifo"
    os.mkfifo(fifo)
    machine.network("10-one.conf", name="one", cniVersion="0.4.0")
    machine.network("20-two.conf", name="two", type="slow")
    real = next(f"{place}/ptp" for place in PLACES if os.access(f"{place}/ptp", os.X_OK))
    slow = rkt.base / "etc/net.d/slow"
    slow.write_text(
        f'#!/bin/sh\n[ "$CNI_COMMAND" = DEL ] && exec {real}\n{real}; echo > {fifo}; exec sleep 1000\n'
    )
    slow.chmod(0o755)
    process = rkt.start("run", "--net=one,two", "example.com/box")
    fifo.read_text()
    assert len(machine.left()) > 4
    process.kill()
    process.wait()
    rkt.good("status", "--wait=100s", os.listdir(rkt.data / "pods/run")[0])
    collect = rkt.command("gc", "--grace-period=0s")
    slow.rename(rkt.base / "slow")
    done = subprocess.run(collect, capture_output=True, text=True, check=False)
    assert (done.returncode, 'could not find plugin "slow"' in done.stderr) == (254, True)
    (rkt.base / "slow").rename(slow)
    subprocess.run(collect, check=True, stdout=subprocess.DEVNULL)
    machine.nothing_left()
    assert not list((rkt.data / "pods").glob("*/*-*"))


CAT = ["--exec=/bin/cat", "--", "/etc/resolv.conf", "/etc/hosts"]


def test_files_of_etc(machine: Machine) -> None:
    rkt = machine.rkt
    machine.network("10-named.conf", name="named", dns={"nameservers": ["192.0.2.53"], "search": ["a.test"]})
    done = rkt.good("run", "--net=named", "example.com/web", *CAT)
    named = ["# Generated by gantry rkt from network named", "", "search a.test", "nameserver 192.0.2.53"]
    assert done.lines == [*named, "127.0.0.1 of-the-image"]
    done = rkt.good(
        "run", "--net=named", "--dns=192.0.2.7", "--hosts-entry=192.0.2.9=db", "example.com/web", *CAT
    )
    assert "nameserver 192.0.2.7" in done.lines
    assert "nameserver 192.0.2.53" not in done.lines
    assert "192.0.2.9 db" in done.lines
    done = rkt.good("run", "--net=none", "example.com/web", *CAT)
    assert done.lines == ["nameserver 203.0.113.1", "127.0.0.1 of-the-image"]
    done = rkt("run", "--net=named", "--dns=none", "example.com/box", *CAT)
    assert "can't open '/etc/resolv.conf'" in done.err
    machine.nothing_left()


SHOW = ["example.com/box", "--exec=/bin/busybox", "--", "ip", "-o", "-4", "addr"]


@pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="needs systemd-nspawn")
def test_two_networks_of_a_container_of_nspawns(machine: Machine) -> None:
    flags = ["--net=default,default-restricted", "--stage1-name=nspawn"]
    done = machine.rkt.good("run", *flags, *SHOW)
    assert [line.split()[3] for line in done.lines] == ["127.0.0.1/8", "172.31.0.2/16", "172.16.28.2/24"]
    machine.nothing_left()


def test_fly_and_sandboxes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    rkt = machine.rkt
    done = rkt.good("run", "--net=default-restricted", "--stage1-name=fly", *SHOW)
    assert "flavor fly has this machine's network all the same" in done.err
    assert "172.31" not in done.out
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    file = rkt.base / "uuid"
    os.mkfifo(file)
    process = rkt.start("app", "sandbox", "--port=web:tcp:80:127.0.0.1:8080", f"--uuid-file-save={file}")
    uuid = file.read_text()
    rkt.good("status", "--wait-ready=100s", uuid)
    rkt.good("app", "add", uuid, "example.com/web", "--name=web", *SERVE)
    rkt.good("app", "start", uuid, "--app=web")
    assert machine.get("127.0.0.1", 8080) == "served\n"
    rkt.good("stop", uuid)
    process.wait(timeout=100)
    machine.nothing_left()


def test_networks_that_cannot_be(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    rkt = machine.rkt
    machine.network("10-lame.conf", name="lame", type="no-such-plugin")
    done = rkt("run", "--net=nope", "example.com/box")
    assert (done.code, done.err) == (254, "run: stage1: failed to setup network: networks not found: nope\n")
    machine.nothing_left()
    capsys.readouterr()

    def planned(*flags: str) -> tuple[int, list[str], str]:
        code = main([*rkt.flags, "run", "--print-plan", *flags])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    for flags, why in (
        (["--net=lame"], 'error adding network "lame": could not find plugin "no-such-plugin" in '),
        (["--port=nope:1"], 'port name "nope" could not be found in any apps'),
    ):
        code, _, err = planned(*flags, "example.com/box")
        assert (code, why in err) == (254, True), err
    _, plan, _ = planned("--net=default:IP=172.16.28.9", "--port=http:8080", "example.com/web")
    first = r"   1 run .*/ptp ADD eth0, network default of 99-default\.conf, args IP=172\.16\.28\.9"
    assert re.fullmatch(first, plan[-2])
    assert re.fullmatch(r"   2 run .*/portmap ADD eth0, .*, tcp-0\.0\.0\.0:8080 to 80", plan[-1])
    (rkt.base / "etc/net.d/99.conf").write_text("{")
    assert "99.conf: Expecting property name" in planned("example.com/box")[2]


def test_what_the_command_line_of_a_sandbox_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    for flags, why in (
        (["--port=web:80"], "is not in name:protocol:podPort:hostIP:hostPort format"),
        (["--port=web:icmp:80:127.0.0.1:80"], 'invalid protocol "icmp"'),
        (["--port=web:tcp:80:here:80"], 'could not parse IP "here"'),
        (["--port=web:tcp:80:::1:99999"], '"99999" is not a valid port number'),
        (["--port=WEB:tcp:80:::1:80"], '"WEB" is not a valid port name'),
        (["--net=none", "--port=web:tcp:80:::1:80"], "does not work with 'none'"),
    ):
        assert main([f"--dir={tmp_path}", "app", "sandbox", *flags]) == 1
        assert why in capsys.readouterr().err


def test_what_a_dead_pod_has_left_is_tried_once_by_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dirs = PodDirs(tmp_path / "pods")
    dirs.open()
    pod = dirs.create("dead")
    pod.move(Phase.RUN)
    step = Step("no-such-plugin", "0.1.0", {})
    attached = Attachment("lame", "10-lame.conf", "/10-lame.conf", "eth0", "", (step,), "{}", begun=True)
    record.save(pod.path, Plan("dead", ("/nowhere",), (attached,)))
    g = Globals("run", str(tmp_path))
    networks.sweep(g)
    assert capsys.readouterr().err == ""  # it has its lock
    os.close(pod.lock)
    networks.sweep(g)
    networks.sweep(g)
    said = 'error deleting network "lame": could not find plugin "no-such-plugin" in /nowhere'
    assert capsys.readouterr().err == f"run: pod dead: networking: {said}\n"
    with pytest.raises(Failure, match="could not find plugin"):
        networks.release(g, pod.path)


def test_limits_that_a_plugin_enforces_are_taken_out_of_the_manifest(tmp_path: Path) -> None:
    g = Globals("run", local_config=str(tmp_path))

    def limit(text: str, **more: object) -> dict[str, Any]:
        return {"name": "resource/network-bandwidth", "value": {"default": True, "limit": text, **more}}

    def pod(count: int = 1, **notes: str) -> dict[str, Any]:
        other = {"name": "resource/memory", "value": {"limit": "1G"}}
        return {
            "apps": [{"app": {"isolators": [limit("2M"), other]}} for _ in range(count)],
            "isolators": [limit("3M", **{"gantry.io/ingress": "1M"})],
            "annotations": [{"name": name, "value": value} for name, value in notes.items()],
        }

    before = pod()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("executor.network.plugins.PLACES", (str(tmp_path),))
        assert not networks.take_limits(g, before)  # there is no such plugin
    assert before == pod()
    assert networks.take_limits(g, before) == Rates(1_000_000, 2_000_000)
    assert [one["name"] for one in before["apps"][0]["app"]["isolators"]] == ["resource/memory"]
    assert before["isolators"] == []
    several = pod(2)
    assert networks.take_limits(g, several) == Rates(1_000_000, 3_000_000)
    assert several["apps"] == pod(2)["apps"]  # what one of them uses nobody can tell
    assert not networks.take_limits(g, pod(**{"coreos.com/rkt/stage1/mutable": "true"}))
    with pytest.raises(Failure, match="not a number with a suffix"):
        networks.take_limits(g, {**pod(), "isolators": [limit("much")]})
