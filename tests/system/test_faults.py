"""Kill any one process of a cluster, any time: afterwards the pods are as the store says, none twice, none lost."""

import os
import signal

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("faults"),
]

PARTS = {
    "scheduler": ("-m gantry scheduler",),
    "master": ("-m gantry master",),
    "agent": ("-m gantry agent",),
}


def started(pid):
    """The pid and when it began, in clock ticks since boot: what identifies a process. None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return pid, file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def only(pids):
    assert len(pids) == 1, pids
    return pids[0]


def test_each_process_killed_in_turn_with_a_pod_running(own_cluster, tools, marker):
    cluster = own_cluster
    cluster.create(tools.sleeper("survivor", marker))
    cluster.wait_phase("survivor", "Running")
    before = started(only(tools.sleepers(marker)))
    for part, words in PARTS.items():
        victim = only(cluster.pids(*words))
        gone = (None, started(victim))
        os.kill(victim, signal.SIGKILL)
        tools.wait_for(
            f"{part} again",
            lambda words=words, gone=gone: [one for one in cluster.pids(*words) if started(one) not in gone],
        )
        tools.wait_for("API", lambda: "survivor" in cluster.kubectl("get", "pods", check=False))
        tools.wait_for("node Ready", lambda: " Ready " in cluster.kubectl("get", "nodes", check=False))
        assert started(only(tools.sleepers(marker))) == before, (
            f"the pod was touched when the {part} was killed"
        )
        assert "started" in cluster.kubectl("logs", "survivor")
        fresh = f"after-{part}"
        cluster.create(tools.sleeper(fresh, marker + "1"))
        cluster.wait_phase(fresh, "Running")
        cluster.delete(fresh)
        tools.wait_for("end of the fresh pod", lambda: not tools.sleepers(marker + "1"))
    os.kill(only(cluster.pids("-m gantry executor")), signal.SIGKILL)
    tools.wait_for(
        "another instance", lambda: [p for p in tools.sleepers(marker) if started(p) not in (before, None)]
    )
    cluster.wait_phase("survivor", "Running")
    assert started(only(tools.sleepers(marker))) != before
    cluster.delete("survivor")
    tools.wait_for("end of the pod", lambda: not tools.sleepers(marker))


def test_a_pod_that_must_not_restart_fails_when_its_executor_dies(own_cluster, tools, marker):
    cluster = own_cluster
    cluster.create(tools.sleeper("once", marker, restartPolicy="Never"))
    cluster.wait_phase("once", "Running")
    os.kill(only(cluster.pids("-m gantry executor")), signal.SIGKILL)
    assert cluster.wait_phase("once", "Failed")["status"]["reason"]
    tools.wait_for("end of its process", lambda: not tools.sleepers(marker))


def leftovers(cluster):
    """What of the cluster is still on the machine: processes, mounts, cgroups."""
    from local.settings import Settings

    prefix = Settings(cluster.directory.resolve(), ("127.0.0.1", 1)).cgroups_prefix
    with open("/proc/self/mountinfo") as file:
        mounts = [line for line in file if str(cluster.directory) in line]
    cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if f"/{prefix}" in path]
    return cluster.pids(), mounts, cgroups


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_cluster_and_its_state_does(own_cluster, tools, marker, how):
    cluster = own_cluster
    cluster.create(tools.sleeper("stays", marker))
    cluster.wait_phase("stays", "Running")
    cluster.stop(how)
    tools.wait_for("end of the pod", lambda: not tools.sleepers(marker))
    tools.wait_for("end of the cluster", lambda: not cluster.pids())
    if how == signal.SIGINT:
        assert leftovers(cluster) == ([], [], [])
    assert leftovers(cluster)[:2] == ([], [])
    cluster.start()
    tools.wait_for("the pod, once", lambda: len(tools.sleepers(marker)) == 1)
    cluster.wait_phase("stays", "Running")
    assert len(tools.sleepers(marker)) == 1
    assert cluster.stop() == 0
    assert leftovers(cluster) == ([], [], [])
