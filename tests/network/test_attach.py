"""Networks of real plugins (Debian's containernetworking-plugins): made, looked at, taken down, and what kills leave.

"This machine" is a network namespace of the test's own, so its rules and interfaces are, too; leases are in tmp_path.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.network import attachments, config, info, record, trial
from executor.network.errors import CniError
from executor.network.namespaces import within
from executor.network.plan import Plan, newer, plan
from executor.network.plugins import PLACES, Stopper
from executor.network.ports import Forward
from executor.network.rates import Rates
from tests.waiting import until

MISSING = [
    name
    for name in ("ptp", "bridge", "host-local", "portmap", "tuning", "bandwidth")
    if not shutil.which(name, path=":".join(PLACES))
]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: containernetworking-plugins"),
    pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables"),
]

SUBNETS = {"ptp": "10.91.0.0/24", "bridge": "10.92.0.0/24"}
CALLER = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from executor.network import attachments, record
pod = Path({pod!r})
attachments.attach(pod, record.load(pod), {netns!r})
"""


@dataclass
class World:
    """host, pod: processes in the namespaces of this machine and of a pod; directory: the pod's."""

    host: int
    pod: int
    base: Path

    @property
    def directory(self) -> Path:
        return self.base / "pod"

    @property
    def netns(self) -> str:
        return f"/proc/{self.pod}/ns/net"

    def there(self, work: Callable[[], Any]) -> Any:
        return within(self.host, work)

    def sh(self, pid: int, *words: str) -> str:
        return subprocess.check_output(["nsenter", "-t", str(pid), "-n", *words], text=True)

    def network(self, kind: str, version: str = "", **more: Any) -> config.Network:
        ipam = {
            "type": "host-local",
            "subnet": SUBNETS[kind],
            "dataDir": str(self.base / "leases"),
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        document = {"name": f"test-{kind}", "type": kind, "ipMasq": True, "ipam": ipam, **more}
        if kind == "bridge":
            document |= {"bridge": "cni-test", "isGateway": True}
        document |= {"cniVersion": version} if version else {}
        return config.parse(json.dumps(document), f"/x/10-{kind}.conf")

    def plan(self, *wanted: config.Network, args: str = "", forwards: tuple[Forward, ...] = ()) -> Plan:
        made = plan("6a1c4e0e-uuid", [(one, args) for one in wanted], PLACES, forwards)
        record.save(self.directory, made)
        return made

    def attach(self, made: Plan, **more: Any) -> Any:
        return self.there(lambda: attachments.attach(self.directory, made, self.netns, **more))

    def detach(self, netns: str | None = None) -> None:
        self.there(lambda: attachments.detach(self.directory, self.netns if netns is None else netns))

    def leases(self) -> list[str]:
        found = (self.base / "leases").glob("*/*.*.*.*")
        return sorted(path.name for path in found)

    def rules(self) -> list[str]:
        """Those that name the pod."""
        listed = self.sh(self.host, "iptables-save", "-t", "nat").splitlines()
        return [line for line in listed if "6a1c4e0e-uuid" in line or "CNI-DN-" in line]

    def links(self) -> list[str]:
        links = json.loads(self.sh(self.host, "ip", "-j", "link"))
        return [link["ifname"] for link in links if link["ifname"].startswith("veth")]

    def nothing_left(self) -> None:
        assert (self.leases(), self.rules()) == ([], [])
        # Of a namespace that nobody has any more they go when the kernel comes to it.
        until("interfaces to go", lambda: not self.links(), why=lambda: str(self.links()))
        assert record.load(self.directory) is None
        assert [path.name for path in (self.directory / "net").iterdir()] == []


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Three processes with a network namespace each, which end with this one."""
    script = "ip link set lo up && echo && exec sleep 1000"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "sh", "-c", script]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for one in started:
            assert one.stdout is not None
            one.stdout.readline()
        yield [one.pid for one in started]
    finally:
        for one in started:
            one.kill()
            one.communicate()


@pytest.fixture
def world(processes: list[int], tmp_path: Path) -> World:
    made = World(*processes[:2], tmp_path)
    made.directory.mkdir()
    return made


@pytest.fixture
def server(world: World) -> Iterator[socket.socket]:
    """Listens on port 80 of the pod."""
    with within(world.pod, lambda: socket.create_server(("0.0.0.0", 80))) as listening:
        listening.settimeout(10)
        yield listening


@pytest.mark.parametrize("version", ["", "0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_a_network_with_ports_in_every_version(world: World, server: socket.socket, version: str) -> None:
    web = (Forward("tcp", 8080, 80), Forward("tcp", 8081, 80, "10.91.0.1"))
    (result,) = world.attach(world.plan(world.network("ptp", version), forwards=web))
    assert str(result.address(4).ip) == "10.91.0.2/24"
    (told,) = info.info(world.directory)
    assert told == {
        "netName": "test-ptp", "netConf": "net/10-ptp.conf", "ifName": "eth0", "ip": "10.91.0.2",
        "mask": "255.255.255.0", "args": "", "pluginPath": told["pluginPath"],
    }  # fmt: skip
    assert (world.directory / "net/10-ptp.conf").exists()
    assert "default via 10.91.0.1" in world.sh(world.pod, "ip", "route")
    for address, port in (("10.91.0.2", 80), ("10.91.0.1", 8080), ("127.0.0.1", 8080), ("10.91.0.1", 8081)):
        connection = within(world.host, lambda to=(address, port): socket.create_connection(to, 10))
        with connection, server.accept()[0] as taken:
            taken.sendall(b"x")
            assert connection.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        within(world.host, lambda: socket.create_connection(("127.0.0.1", 8081), 10))
    world.detach()
    world.nothing_left()
    world.detach()


def test_networks_one_beside_the_other(world: World) -> None:
    said: list[str] = []
    lists = {
        "cniVersion": "1.0.0",
        "name": "test-list",
        "plugins": [dict(world.network("bridge").plugins[0].conf)],
    }
    lists["plugins"].append({"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_filter": "1"}})  # type: ignore[attr-defined]
    chained = config.parse(json.dumps(lists), "/x/20-list.conflist")
    made = world.plan(world.network("ptp", routes=[]), chained)
    assert [line.split(" ", 2)[2] for line in made.describe()] == [
        "ADD eth0, network test-ptp of /x/10-ptp.conf",
        "ADD eth1, network test-list of /x/20-list.conflist",
        "ADD eth1, network test-list of /x/20-list.conflist",
    ]
    results = world.attach(made, say=said.append)
    assert [str(one.address(4).ip.ip) for one in results] == ["10.91.0.2", "10.92.0.2"]
    assert said == ["loading network test-ptp with type ptp", "loading network test-list with type bridge"]
    assert world.sh(world.pod, "sysctl", "-n", "net.ipv4.conf.all.arp_filter") == "1\n"
    world.there(lambda: attachments.check(world.directory, world.netns))
    world.sh(world.pod, "ip", "addr", "flush", "dev", "eth1")
    with pytest.raises(CniError):
        world.there(lambda: attachments.check(world.directory, world.netns))
    world.detach()
    world.nothing_left()


def test_both_versions_of_ip(world: World) -> None:
    """And what was killed leaves nothing."""
    subnets = ["10.91.0.0/24", "2001:db8:91::/64"]
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(world.base / "leases")}
    made = world.plan(world.network("ptp", "0.4.0", ipam=ipam), forwards=(Forward("tcp", 8080, 80),))
    (result,) = world.attach(made)
    assert [str(one.ip.ip) for one in result.addresses] == ["10.91.0.2", "2001:db8:91::2"]
    assert "2001:db8:91::2/64" in world.sh(world.pod, "ip", "-6", "addr", "show", "dev", "eth0")
    assert "--to-destination [2001:db8:91::2]:80" in world.sh(world.host, "ip6tables-save")
    os.kill(world.pod, signal.SIGKILL)
    world.detach("")
    world.nothing_left()
    assert "6a1c4e0e" not in world.sh(world.host, "ip6tables-save")


def test_arguments_choose_an_address_and_one_that_is_taken_is_refused(
    world: World, processes: list[int]
) -> None:
    (result,) = world.attach(world.plan(world.network("ptp", "0.4.0"), args="IP=10.91.0.77"))
    assert str(result.address(4).ip.ip) == "10.91.0.77"
    other = World(world.host, processes[2], world.base / "other")
    other.directory.mkdir(parents=True)
    made = plan("another", [(world.network("ptp", "0.4.0"), "IP=10.91.0.77")], PLACES)
    record.save(other.directory, made)
    with pytest.raises(CniError, match=r'error adding network "test-ptp": .*10\.91\.0\.77 is not available'):
        other.attach(made)
    other.detach()
    assert world.leases() == ["10.91.0.77"]
    world.detach()
    world.nothing_left()


def test_limits(world: World) -> None:
    network = newer(world.network("ptp"), PLACES)
    made = plan("6a1c4e0e-uuid", [(network, "")], PLACES, limits=Rates(1_000_000, 2_000_000))
    assert made.describe()[1].endswith(", ingress 8000000 bits/s, egress 16000000 bits/s")
    record.save(world.directory, made)
    world.attach(made)
    limits = [line for line in world.sh(world.host, "tc", "qdisc").splitlines() if " tbf " in line]
    assert [("rate 8Mbit" in line, "rate 16Mbit" in line) for line in limits] == [
        (True, False),
        (False, True),
    ]
    world.detach()
    world.nothing_left()
    assert " tbf " not in world.sh(world.host, "tc", "qdisc")


@pytest.mark.parametrize("kind", ["ptp", "bridge"])
@pytest.mark.parametrize("version", ["", "1.0.0"])
def test_a_pod_that_was_killed_leaves_nothing(world: World, kind: str, version: str) -> None:
    """Its namespace is gone, and with it the interface whose address the rules are about."""
    world.attach(world.plan(world.network(kind, version), forwards=(Forward("tcp", 8080, 80),)))
    assert world.rules()
    os.kill(world.pod, signal.SIGKILL)
    world.detach("")
    world.nothing_left()


def test_whoever_is_killed_at_whatever_moment(world: World, tmp_path: Path) -> None:
    """A plugin that stops after each of its steps: what it has done by then is taken down."""
    real = next(f"{place}/ptp" for place in PLACES if os.access(f"{place}/ptp", os.X_OK))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fake = tmp_path / "plugins/ptp"
    fake.parent.mkdir()
    # The whole of ADD is done, and nobody has heard of it.
    fake.write_text(f'#!/bin/sh\n{real}; [ "$CNI_COMMAND" = DEL ] || {{ echo > {fifo}; sleep 1000; }}\n')
    fake.chmod(0o755)
    made = plan("6a1c4e0e-uuid", [(world.network("ptp"), "")], [str(fake.parent), *PLACES])
    record.save(world.directory, made)
    root = str(Path(__file__).resolve().parents[2])
    code = CALLER.format(root=root, pod=str(world.directory), netns=world.netns)
    caller = subprocess.Popen(["nsenter", "-t", str(world.host), "-n", sys.executable, "-c", code])
    try:
        fifo.read_text()
        assert world.rules()
        caller.kill()
    finally:
        caller.kill()
        caller.wait()
    os.kill(world.pod, signal.SIGKILL)
    fake.write_text(f"#!/bin/sh\nexec {real}\n")
    world.detach("")
    world.nothing_left()


def test_who_has_refused_from_the_first_is_not_asked_for_ever(world: World, tmp_path: Path) -> None:
    """What it cannot read when it adds it cannot when it deletes; those that come after it were never asked."""
    said: list[str] = []
    bad = world.network(
        "ptp", ipam={"type": "host-local", "subnet": "no such subnet", "dataDir": str(tmp_path)}
    )
    made = world.plan(world.network("bridge"), bad, world.network("ptp", type="never-run"))
    with pytest.raises(CniError, match=r'^error adding network "test-ptp": .*no such subnet'):
        world.attach(made)
    world.there(lambda: attachments.detach(world.directory, world.netns, say=said.append))
    assert [line.partition(": ")[0] for line in said] == ['error deleting network "test-ptp"']
    world.nothing_left()
    with pytest.raises(
        CniError, match=r'^error adding network "test-ptp": could not find plugin "never-run"'
    ):
        made.check()


def test_what_fails_is_not_forgotten(world: World) -> None:
    made = world.plan(world.network("ptp"), world.network("bridge"))
    world.attach(made)
    broken = record.load(world.directory)
    assert broken is not None
    # The first one's plugin is gone.
    first = broken.attachments[0]
    steps = tuple(type(step)("no-such", step.version, step.conf, step.text) for step in first.steps)
    record.save(
        world.directory,
        Plan(
            broken.container,
            broken.places,
            (type(first)(**{**vars(first), "steps": steps}), broken.attachments[1]),
        ),
    )
    with pytest.raises(
        CniError, match=r'^error deleting network "test-ptp": could not find plugin "no-such"'
    ):
        world.detach()
    left = record.load(world.directory)
    assert left is not None
    assert [one.network for one in left.attachments] == ["test-ptp"]
    assert world.leases() == ["10.91.0.2"]
    record.save(world.directory, Plan(broken.container, broken.places, (first,)))
    world.detach()
    world.nothing_left()


def test_who_refuses_to_take_down_is_asked_twice(world: World, tmp_path: Path) -> None:
    said: list[str] = []
    fake = tmp_path / "plugins/stubborn"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] && echo "{}" || exit 3\n')
    fake.chmod(0o755)
    places = [str(fake.parent), *PLACES]
    made = plan(
        "6a1c4e0e-uuid",
        [(world.network("ptp", type="stubborn", ipam={}), ""), (world.network("ptp"), "")],
        places,
    )
    record.save(world.directory, made)
    world.attach(made)
    with pytest.raises(CniError, match=r'^error deleting network "test-ptp": stubborn DEL: exit code 3$'):
        world.detach()
    assert (world.leases(), world.rules()) == ([], [])
    world.there(lambda: attachments.detach(world.directory, "", say=said.append))
    assert said == ['error deleting network "test-ptp": stubborn DEL: exit code 3; it is not asked again']
    world.nothing_left()


def test_an_add_that_is_stopped(world: World, tmp_path: Path) -> None:
    stopper = Stopper()
    stopper.stop()
    with pytest.raises(CniError, match="stopped"):
        world.attach(world.plan(world.network("ptp")), stopper=stopper)
    stopper.close()
    world.detach()
    world.nothing_left()


def test_of_nothing_there_is_nothing_to_take_down(world: World) -> None:
    world.detach("")
    assert info.info(world.directory) == []
    (world.directory / "net").mkdir()
    (world.directory / info.RECORD).write_text('{"version": 99}')
    with pytest.raises(CniError, match="written by another version of Gantry"):
        world.detach("")


def test_a_trial_says_what_is_missing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    assert world.there(trial.why_not) == ""
    assert (world.rules(), world.links()) == ([], [])
    monkeypatch.setattr("executor.network.plugins.PLACES", (str(tmp_path),))
    assert 'could not find plugin "ptp"' in trial.why_not()
