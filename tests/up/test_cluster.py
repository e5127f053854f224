"""What `gantry up` does with processes that end."""

import signal
import sys

import pytest

from local.cluster import SIGNALS, Cluster, ClusterError, Component
from local.settings import Settings


def run_until(cluster, part, done):
    """Start the part and let the cluster look after it, without waiting for its back-offs."""
    cluster._start(part)
    while not done():
        cluster.step(0.05)
        part.restart_at = 0.0 if part.restart_at else None


@pytest.fixture
def watch(tmp_path):
    """A cluster of one process that runs a Python script, and what was said of it."""
    clusters = []

    def make(script):
        said = []
        part = Component("worker", [sys.executable, "-c", script], tmp_path / "worker.log")
        cluster = Cluster(Settings(tmp_path, ("127.0.0.1", 1)), [part], said.append)
        clusters.append(cluster)
        return cluster, part, said

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    yield make
    for cluster in clusters:
        cluster.stop()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_fails_again_and_again_ends_the_cluster_with_its_last_words(watch):
    cluster, part, said = watch("import sys; sys.exit('no such flag')")
    with pytest.raises(ClusterError, match=r"worker exited with code 1 again and again; .* no such flag"):
        run_until(cluster, part, lambda: False)
    assert said[0].startswith("the worker exited with code 1; starting it again")


def test_what_is_killed_is_started_again_however_often(watch):
    cluster, part, said = watch("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    run_until(cluster, part, lambda: len(said) >= 12)
    assert "the worker was killed by SIGKILL; starting it again" in said[-1]
