"""`gantry up --ha`: any of the schedulers may be killed, and ZooKeeper, and nobody notices."""

import os
import re
import signal
import subprocess
import sys

import pytest

from local.zookeeper import missing

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def ha(can_run_pods, make_cluster, tmp_path):
    return make_cluster(tmp_path / "data", "--ha")


class Scheduler:
    """One of the two: `processes` are its supervisor and the scheduler proper, in this order."""

    def __init__(self, cluster, number):
        self.cluster, self.name = cluster, f"scheduler-{number}"
        self.certificates = f"{cluster.directory}/certificates" + ("" if number == 1 else f"-{number}")

    def processes(self):
        found = []
        for pid in self.cluster.pids("gantry scheduler"):
            argv = _argv(pid)
            if self.certificates in argv:
                found.append((argv, pid))
        return sorted(pid for _, pid in found)

    def port(self):
        argv = _argv(self.processes()[0])
        return argv[argv.index("--listen") + 1].rpartition(":")[2]

    def health(self):
        server = f"https://127.0.0.1:{self.port()}"
        return self.cluster.kubectl("--server", server, "get", "--raw", "/readyz?verbose", check=False)

    def ready(self):
        return len(self.processes()) == 2 and "readyz check passed" in self.health()

    def leads(self):
        return "this scheduler leads" in self.health()


def _argv(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")
    except OSError:
        return []


def followed(cluster, scheduler, pod):
    """The first line of a pod's log, followed by way of this scheduler."""
    server = ["--server", f"https://127.0.0.1:{scheduler.port()}"]
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *server, "logs", "-f", pod]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        try:
            return following.stdout.readline()
        finally:
            following.kill()


def test_whoever_is_killed_requests_are_answered_and_pods_run_on(ha, tools, marker):
    both = [Scheduler(ha, 1), Scheduler(ha, 2)]
    ha.create(tools.sleeper("stays", marker))
    ha.wait_phase("stays", "Running")
    before = tools.sleepers(marker)
    assert len(before) == 1
    for number, part in enumerate((0, 1)):  # the supervisor, and the scheduler proper
        tools.wait_for("both schedulers", lambda: all(one.ready() for one in both))
        leader = tools.wait_for("a leader", lambda: next((one for one in both if one.leads()), None))
        other = both[1 - both.index(leader)]
        assert followed(ha, other, "stays") == "started\n"
        os.kill(leader.processes()[part], signal.SIGKILL)
        for _ in range(10):  # kubectl tries again what ends without an answer, as long as it only reads
            assert ha.pod("stays")["status"]["phase"] == "Running"
        name = f"new-{number}"
        ha.create(tools.sleeper(name, marker))
        tools.wait_for("the other one to lead", other.leads)
        ha.wait_phase(name, "Running")
    assert set(before) <= set(tools.sleepers(marker))  # the very process
    assert ha.pod("stays")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_zookeeper_may_be_killed_and_all_be_stopped(ha, tools, marker):
    ha.create(tools.sleeper("stays", marker))
    ha.wait_phase("stays", "Running")
    before = tools.sleepers(marker)
    (zookeeper,) = ha.pids("QuorumPeerMain")
    os.kill(zookeeper, signal.SIGKILL)
    tools.wait_for("a ZooKeeper", lambda: [pid for pid in ha.pids("QuorumPeerMain") if pid != zookeeper])
    tools.wait_for(
        "writes again", lambda: "labeled" in ha.kubectl("label", "pod", "stays", "a=b", check=False)
    )
    assert tools.sleepers(marker) == before
    assert ha.stop() == 0
    assert tools.sleepers(marker) == []
    ha.start()
    assert ha.pod("stays")["metadata"]["labels"] == {"a": "b"}
    ha.wait_phase("stays", "Running")
    assert ha.stop() == 0
    other = [sys.executable, "-m", "gantry", "up", "--data-dir", str(ha.directory), "--listen", "127.0.0.1:0"]
    done = subprocess.run(other, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(
        r"gantry up: error: --data-dir .* has the state of a cluster with --ha.*\n", done.stderr
    )
