"""`gantry demo`: start a cluster, run one pod in it through the HTTP API, show it, clean everything up.

The main job from beginning to end, as a user would do it with kubectl; what it does it says while it does it.
"""

import argparse
import base64
import contextlib
import json
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from local.cluster import say

START_SECONDS = 120.0
RUN_SECONDS = 60.0


class DemoError(Exception):
    """The demo did not come to its end; the message is one line."""


class Api:
    """The cluster's HTTP API, by the kubeconfig that `gantry up` wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        self.server: str = config["clusters"][0]["cluster"]["server"]
        self.token: str = config["users"][0]["user"]["token"]
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        self.trust = ssl.create_default_context(cadata=authority)

    def open(self, method: str, path: str, body: Any = None) -> Any:
        """The open response; raises DemoError with the API's own message when it refuses."""
        request = urllib.request.Request(self.server + path, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        try:
            return urllib.request.urlopen(request, data, timeout=RUN_SECONDS, context=self.trust)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError):
                text = json.loads(text).get("message", text)
            raise DemoError(f"{method} {path}: {error.code} {text}") from error
        except OSError as error:
            raise DemoError(f"{method} {path}: {error}") from error

    def call(self, method: str, path: str, body: Any = None) -> Any:
        with self.open(method, path, body) as response:
            return json.load(response)

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        with self.open("GET", path) as response:
            for line in response:
                yield json.loads(line)


@contextlib.contextmanager
def cluster_in(directory: Path) -> Iterator[Api]:
    """A cluster of one agent in `directory`; it is gone when the block ends, however it ends."""
    command = [sys.executable, "-m", "gantry", "up", "--data-dir", str(directory), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = threading.Event()

    def relay() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("the cluster is ready"):
                ready.set()
            if not ready.is_set():
                say(f"  {line.rstrip()}")
        ready.set()

    threading.Thread(target=relay, daemon=True).start()
    try:
        if not ready.wait(START_SECONDS) or process.poll() is not None:
            raise DemoError(f"the cluster did not start; its logs are in {directory / 'logs'}")
        yield Api(directory / "kubeconfig")
    finally:
        process.terminate()
        process.wait()


def until_running(api: Api, path: str, name: str) -> dict[str, Any]:
    """Watch the pod, saying each change, until it runs or has run; the last state seen."""
    deadline, said = time.monotonic() + RUN_SECONDS, ""
    query = f"?watch=1&fieldSelector=metadata.name%3D{name}&timeoutSeconds={int(RUN_SECONDS)}"
    for event in api.watch(path + query):
        pod: dict[str, Any] = event["object"]
        status = pod.get("status", {})
        waiting = [
            c["state"]["waiting"]
            for c in status.get("containerStatuses", [])
            if c.get("state", {}).get("waiting")
        ]
        now = ", ".join([status.get("phase", "Pending"), *(w.get("reason", "") for w in waiting)])
        if now != said:
            said = now
            say(f"  {name}: {now}")
        if status.get("phase") in {"Running", "Succeeded", "Failed"} and not waiting:
            return pod
        if time.monotonic() > deadline:
            break
    events = api.call("GET", path.replace("/pods", "/events"))["items"]
    last = events[-1]["message"] if events else "no event says why"
    raise DemoError(f"pod {name} did not run within {RUN_SECONDS:.0f} s; it is {said}: {last}")


def show_log(api: Api, path: str, seconds: float = 5.0, settled: float = 0.3) -> None:
    """Print the pod's log once it has one that has not grown for `settled` seconds; after `seconds` as it is."""
    deadline, text, since = time.monotonic() + seconds, "", time.monotonic()
    while time.monotonic() < deadline and not (text and time.monotonic() - since > settled):
        with api.open("GET", f"{path}/log") as response:
            now = response.read().decode(errors="replace")
        if now != text:
            text, since = now, time.monotonic()
        time.sleep(0.05)
    for line in text.splitlines() or ["(it wrote nothing)"]:
        say(f"  | {line}")


def show_status(pod: dict[str, Any]) -> None:
    status = pod.get("status", {})
    say(
        f"  phase {status.get('phase')}, on node {pod['spec'].get('nodeName')}, started {status.get('startTime')}"
    )
    for container in status.get("containerStatuses", []):
        state = ", ".join(
            f"{name} {json.dumps(detail)}" for name, detail in container.get("state", {}).items()
        )
        say(f"  container {container['name']}: {state}; restarts {container.get('restartCount', 0)}")


def pod_of(manifest: Path) -> dict[str, Any]:
    """The one pod of a file. Raises DemoError."""
    try:
        pod = yaml.safe_load(manifest.read_text())
    except OSError as error:
        raise DemoError(f"--manifest {manifest}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DemoError(f"--manifest {manifest}: not YAML: {' '.join(str(error).split())}") from error
    named = isinstance(pod, dict) and isinstance(pod.get("metadata"), dict) and pod["metadata"].get("name")
    if not named or pod.get("kind") != "Pod":
        raise DemoError(f"--manifest {manifest}: not a Pod with a name")
    return dict(pod)


def run(manifest: Path, directory: Path) -> None:
    """The whole demo. Raises DemoError."""
    pod = pod_of(manifest)
    name, pods = pod["metadata"]["name"], "/api/v1/namespaces/default/pods"
    say("==> starting a cluster: an embedded Mesos master, one agent, the Gantry scheduler")
    with cluster_in(directory) as api:
        say(f"==> submitting {manifest} through the Kubernetes API at {api.server}")
        api.call("POST", pods, pod)
        running = until_running(api, pods, name)
        say("==> its log")
        show_log(api, f"{pods}/{name}")
        say("==> its status")
        show_status(api.call("GET", f"{pods}/{name}") or running)
        say("==> deleting it and stopping the cluster")
        api.call("DELETE", f"{pods}/{name}")
    say("==> everything is cleaned up. To go on:")
    say("  .venv/bin/gantry up                                   # a cluster until Ctrl-C")
    say("  KUBECONFIG=.gantry/kubeconfig kubectl get nodes        # in another terminal")
    say(f"  KUBECONFIG=.gantry/kubeconfig kubectl create -f {manifest}")


def _interrupted(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """`gantry demo`; exit code 0 when the pod ran, 1 when it did not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="gantry demo", description="Start a cluster, run one pod, show it, clean up."
    )
    parser.add_argument(
        "--manifest", type=Path, default=Path("examples/hello.yaml"), help="the pod (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        with tempfile.TemporaryDirectory(prefix="gantry-demo-") as directory:
            run(args.manifest, Path(directory))
    except (DemoError, OSError) as error:
        print(f"gantry demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gantry demo: interrupted; everything it started is gone", file=sys.stderr)
        return 130
    return 0
