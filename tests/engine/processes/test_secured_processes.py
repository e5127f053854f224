"""The whole of it on a Mesos as careful operators run one: TLS, credentials, executors' tokens, regions, quota and
revocable resources that vanish."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shared.security.certificates import serving_files
from tests.engine.processes.local import Local

pytestmark = [pytest.mark.xdist_group("secured")]

ROOT = Path(__file__).resolve().parents[3]
PODS = "/api/v1/namespaces/default/pods"
PRINCIPAL, SECRET = "gantry", "s3cret of gantry"
BATCH_LIMIT = {"cpus": {"value": 1.0}, "mem": {"value": 512.0}}


def domain(region: str, zone: str) -> str:
    return json.dumps({"fault_domain": {"region": {"name": region}, "zone": {"name": zone}}})


class Secured:
    """A cluster whose master and agents know nobody without a certificate's trust and a secret."""

    def __init__(self, local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
        self.local = local
        files = local.directory / "access"
        made = serving_files(files, ["127.0.0.1", "localhost"], dt.datetime.now(dt.UTC))
        self.ca = made.authority
        texts = {
            "credentials": json.dumps({"credentials": [{"principal": PRINCIPAL, "secret": SECRET}]}),
            "credential": json.dumps({"principal": PRINCIPAL, "secret": SECRET}),
            "secret": SECRET,
            "key": "of the executors' tokens",
        }
        for name, text in texts.items():
            (files / name).write_text(text)
        self.files = files
        self.estimate = files / "estimate"
        self.tls = {
            "LIBPROCESS_SSL_ENABLED": "true",
            "LIBPROCESS_SSL_CERT_FILE": str(made.certificate),
            "LIBPROCESS_SSL_KEY_FILE": str(made.key),
            "LIBPROCESS_SSL_CA_FILE": str(made.authority),
            "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true",
        }
        self.monkeypatch = monkeypatch

    def start(self) -> None:
        """One agent in the master's region, one in another; only the latter has revocable resources."""
        self.estimate.write_text("cpus:2;mem:1024")
        with self.monkeypatch.context() as patch:
            for name, value in self.tls.items():
                patch.setenv(name, value)
            self.local.start_master(
                *("--domain", domain("eu", "a"), "--authenticate_http_frameworks", "--authenticate_agents"),
                *("--authenticate_http_readwrite", "--authenticate_http_readonly"),
                *("--credentials", str(self.files / "credentials")),
            )
            self.agent("agent-1", "eu", "b")
            self.agent("agent-2", "us", "c")
            self.local.start_scheduler(
                *("--roles", "batch", "--revocable", "--mesos-principal", PRINCIPAL),
                *("--mesos-secret-file", str(self.files / "secret"), "--mesos-ca-file", str(self.ca)),
            )
        self.local.until("the nodes", lambda: len(self.local.items("/api/v1/nodes")) == 2)

    def agent(self, name: str, region: str, zone: str) -> None:
        told = {name: value for name, value in self.tls.items() if name.endswith(("ENABLED", "CA_FILE"))}
        self.local.start_agent(
            *(name, "--domain", domain(region, zone), "--credential", str(self.files / "credential")),
            *("--authenticate_http_executors", "--jwt_secret_key", str(self.files / "key")),
            *("--executor_environment_variables", json.dumps(told)),
            *("--resource_estimator", f"file://{self.estimate}", "--qos_controller", "estimate"),
            *("--oversubscribed_resources_interval", "200ms"),
        )

    def operate(self, kind: str, body: dict[str, Any] | None = None) -> Any:
        """A call of the master's operator."""
        call = {"type": kind, **({kind.lower(): body} if body is not None else {})}
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.local.mesos}/api/v1", json.dumps(call).encode()
        )
        pair = base64.b64encode(f"{PRINCIPAL}:{SECRET}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
        request.add_header("Content-Type", "application/json")
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.loads(answer.read() or b"{}")

    def offered(self) -> list[Any]:
        """What our framework is offered now."""
        (framework,) = self.operate("GET_FRAMEWORKS")["get_frameworks"]["frameworks"]
        return list(framework.get("offers") or [])

    def conditions(self, pod: str) -> str:
        return str(json.loads(self.local.get(f"{PODS}/{pod}"))["status"].get("conditions"))


@pytest.fixture
def secured(local: Local, monkeypatch: pytest.MonkeyPatch) -> Secured:
    made = Secured(local, monkeypatch)
    made.start()
    return made


def create(local: Local, name: str, cpu: str = "", **notes: str) -> None:
    resources = {"requests": {"cpu": cpu, "memory": "32Mi"}} if cpu else {}
    containers = [{"name": "main", "image": "localhost/x", "resources": resources}]
    meta = {"name": name, "annotations": {f"gantry.io/{key}": value for key, value in notes.items()}}
    tolerations = [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]
    spec = {"containers": containers, "tolerations": tolerations}
    local.call("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})


def phase(local: Local, name: str) -> str:
    return str(local.phases().get(name))


def test_fault_domains_are_labels_of_nodes(secured: Secured) -> None:
    prefix = "topology.kubernetes.io/"
    labels = [one["metadata"]["labels"] for one in secured.local.items("/api/v1/nodes")]
    found = {(one[f"{prefix}region"], one[f"{prefix}zone"]) for one in labels}
    assert found == {("eu", "b"), ("us", "c")}
    secured.local.create("far", nodeSelector={f"{prefix}region": "us"})
    secured.local.all_running(1)
    (pod,) = secured.local.items()
    assert pod["spec"]["nodeName"] == "agent-2"
    secured.local.until("no offer to be held", lambda: not secured.offered())


def test_a_role_at_its_limit_waits_says_so_and_hoards_nothing(secured: Secured) -> None:
    local = secured.local
    config = {"role": "batch", "limits": BATCH_LIMIT}
    secured.operate("UPDATE_QUOTA", {"quota_configs": [config]})
    create(local, "first", "500m", role="batch")
    local.until("the first", lambda: phase(local, "first") == "Running")
    create(local, "second", "800m", role="batch")
    reason = "Mesos role batch has a quota limit of cpus 1, mem 512"
    local.until("the reason", lambda: reason in secured.conditions("second"))
    assert "Insufficient cpu" in secured.conditions("second")
    create(local, "other", "3")
    local.until("another role's pod", lambda: phase(local, "other") == "Running")
    assert phase(local, "second") == "Pending"
    local.until("no offer to be held", lambda: not secured.offered())
    secured.operate("UPDATE_QUOTA", {"quota_configs": [{"role": "batch"}]})
    local.until("the second", lambda: phase(local, "second") == "Running")


def test_a_pod_on_revocable_resources_that_vanish_runs_elsewhere(secured: Secured) -> None:
    """A pod that opted in takes revocable resources; when they are gone its executor is ended by the agent, and the
    pod, which did nothing wrong, is started again on what there is."""
    local = secured.local
    create(local, "spare", revocable="true")
    local.until("the pod", lambda: phase(local, "spare") == "Running")
    (task,) = secured.operate("GET_TASKS")["get_tasks"]["tasks"]
    assert all("revocable" in one for one in task["resources"])
    before = local.running()
    secured.estimate.write_text("")
    local.until("another run", lambda: local.running() and local.running() != before)

    def on_what_there_is() -> bool:
        # Before the agent's estimate is with the master the pod may land there once more, and be ended again.
        tasks = secured.operate("GET_TASKS")["get_tasks"]["tasks"]
        live = [one for one in tasks if one["state"] == "TASK_RUNNING"]
        return len(live) == 1 and not any("revocable" in one for one in live[0]["resources"])

    local.until("other resources", on_what_there_is)
    local.until("the pod", lambda: phase(local, "spare") == "Running")
    local.assert_each_runs_once()
    local.until("no offer to be held", lambda: not secured.offered())


def test_a_wrong_secret_is_told_and_changes_nothing(secured: Secured) -> None:
    local = secured.local
    local.create("a")
    local.all_running(1)
    local.kill("scheduler")
    (secured.files / "wrong").write_text("guessed")
    local.spawn_scheduler(
        *("--mesos-principal", PRINCIPAL, "--mesos-secret-file", str(secured.files / "wrong")),
        *("--mesos-ca-file", str(secured.ca)),
    )
    local.until("the complaint", lambda: "401" in local.unready())
    assert len(local.running()) == 1


def test_uninstall_of_all_that(secured: Secured) -> None:
    local = secured.local
    local.create("a")
    local.all_running(1)
    local.kill("scheduler")
    command = [sys.executable, "-m", "gantry", "uninstall", "--master", f"127.0.0.1:{local.mesos}", "--yes"]
    command += ["--store", "sqlite:state.db", "--roles", "batch", "--mesos-principal", PRINCIPAL]
    command += ["--mesos-secret-file", str(secured.files / "secret"), "--mesos-ca-file", str(secured.ca)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=local.directory, env=environ, timeout=120, check=False).returncode
    assert done == 0
    local.until("the pod to end", lambda: not local.running())
