"""kubectl and the official client at a scheduler that does not lead, and while the leader changes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import urllib3

pytestmark = [
    pytest.mark.system,
    pytest.mark.xdist_group("failover"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl"),
]

TOKEN = "s3cret"


def pod(name: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "localhost/x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Kubectl:
    """One that trusts the authority in `authority`, whichever scheduler it asks."""

    def __init__(self, directory: Path, port: int, authority: Path) -> None:
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(authority)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "g", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "g", "context": {"cluster": "g", "user": "u"}}],
            "current-context": "g",
        }
        self.config = directory / f"kubeconfig-{port}"
        self.config.write_text(json.dumps(config))
        self.base = ["kubectl", "--kubeconfig", str(self.config), "--cache-dir", str(directory / "cache")]

    def __call__(self, *args: str, stdin: object = None) -> str:
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run(
            [*self.base, *args], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def open(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.base, *args], stdout=subprocess.PIPE, text=True)


class Lines:
    """What a process or a watch says, line by line, as it comes."""

    def __init__(self, source: Callable[[], Iterator[str]]) -> None:
        self.seen: list[str] = []
        self._source = source
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # the server is ended before its watcher
            for line in self._source():
                self.seen.append(line)

    def has(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.seen)


@pytest.fixture
def secure(ha: Any) -> Any:
    """Two schedulers with TLS, certificates of their own making and a token; `kubectl[name]` asks that one."""
    (ha.directory / "token").write_text(TOKEN)
    (ha.directory / "token").chmod(0o600)
    ha.start_master()
    ha.start_agent("agent-1")
    ha.kubectl = {}
    for name in ("one", "two"):
        ha.start_one(name, "--cert-dir", f"{name}-certs", "--token-file", "token")
        authority = ha.directory / f"{name}-certs" / "ca.crt"
        ha.until(f"{name}'s certificate", authority.exists)
        ha.kubectl[name] = Kubectl(ha.directory, ha.ports[name], ha.directory / "one-certs" / "ca.crt")
        ha.until(f"{name} to be ready", lambda name=name: _ready(ha.kubectl[name]))
    return ha


def _said(kubectl: Kubectl, path: str) -> str:
    """The answer; for one that is an error the error."""
    done = subprocess.run(
        [*kubectl.base, "get", "--raw", path], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def _ready(kubectl: Kubectl) -> bool:
    return _said(kubectl, "/readyz") == "ok"


def test_clients_need_not_know_who_leads(secure: Any) -> None:
    one, two = secure.kubectl["one"], secure.kubectl["two"]
    certificates = [(secure.directory / f"{name}-certs" / "ca.crt").read_bytes() for name in ("one", "two")]
    assert certificates[0] == certificates[1], "one authority signs for both"
    assert "this scheduler leads" in one("get", "--raw", "/readyz?verbose")
    assert f"https://127.0.0.1:{secure.ports['one']} leads" in two("get", "--raw", "/readyz?verbose")
    two("apply", "-f", "-", stdin=pod("a"))
    two("wait", "--for=condition=Ready", "pod/a", "--timeout=50s")
    assert "a " in one("get", "pods")
    two("label", "pod", "a", "x=y")
    assert "y" in two("get", "pod", "a", "-o", "jsonpath={.metadata.labels.x}")
    assert "Scheduled" in two("describe", "pod", "a")

    watching = two.open("get", "pods", "-w")
    assert watching.stdout is not None
    kubectl_saw = Lines(lambda: iter(watching.stdout or ()))
    client = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(two.config)))
    watch = kubernetes.watch.Watch()
    client_saw = Lines(
        lambda: (
            f"{event['type']} {event['object'].metadata.name}"
            for event in watch.stream(client.list_namespaced_pod, "default")
        )
    )
    secure.until("the watches", lambda: kubectl_saw.has("a ", "Running") and client_saw.has("ADDED a"))
    pid = secure.child("one")
    os.kill(pid, signal.SIGKILL)
    secure.until("the other to lead", lambda: "this scheduler leads" in _said(two, "/readyz?verbose"))
    two("apply", "-f", "-", stdin=pod("b"))
    secure.until("both to see it", lambda: kubectl_saw.has("b ", "Running") and client_saw.has(" b"))
    secure.until("the old leader to be back", lambda: _ready(one))
    one("delete", "pod", "a", "b", "--timeout=50s")
    secure.until("its end to be seen", lambda: client_saw.has("DELETED b"))
    watch.stop()
    watching.kill()
    watching.wait()
    watching.stdout.close()
