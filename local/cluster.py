"""Run a cluster's processes and keep them running: the inside of `gantry up`.

This is process 1 of the cluster's own process namespace: it starts the master, the agents and the scheduler as
separate programs that only speak their real protocols, starts again what dies, and reaps the executors of a dead
agent. When it ends, the kernel kills whatever is left in the namespace; nothing survives it.
"""

import http.client
import json
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from local import rootfs, zookeeper
from local.settings import Settings, free_port, free_ports, write_kubeconfig

SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STABLE_SECONDS = 5.0  # a process that ran this long starts afresh in the back-off
KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}  # somebody ended it: no failure of its own
START_SECONDS = 120.0
STOP_SECONDS = 5.0
LOOPBACK = "127.0.0.1"
SCHEDULERS = 2  # with --ha
ISOLATION = "cgroups/cpu,cgroups/mem,cgroups/pids,cgroups/devices,cgroups/blkio"


class ClusterError(Exception):
    """The cluster cannot start or go on; the message is one line for the user."""


@dataclass
class Component:
    """One process of the cluster."""

    name: str
    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_unblock_signals,  # the mask would be inherited; this process has one thread
            )
        self.started, self.restart_at = time.monotonic(), None

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def say(text: str) -> None:
    """One line of progress, at once."""
    print(text, flush=True)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def gantry(*args: str) -> list[str]:
    return [sys.executable, "-m", "gantry", *args]


def executor_command(settings: Settings) -> str:
    """The shell command by which the agents start an executor."""
    options = ["--state-dir", settings.data_dir / "executor", "--local-images", settings.images]
    options += ["--node-listen", f"{LOOPBACK}:0"]  # only this machine reads the logs
    options += ["--device-dir", settings.device_dir]
    if settings.image_config is not None:
        options += ["--image-config", settings.image_config]
    options += settings.executor_options
    return shlex.join(gantry("executor", *map(str, options)))


def flags(values: dict[str, object]) -> list[str]:
    """`{"port": 1}` as `--port 1`; what is empty is left out."""
    return [word for name, value in values.items() if value != "" for word in (f"--{name}", str(value))]


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def scheduler(settings: Settings, **more: object) -> list[str]:
    common = {
        "master": settings.master,
        "token-file": settings.token_file,
        "executor-command": executor_command(settings),
        "log-level": settings.log_level,
    }
    return gantry(
        "scheduler", *flags(common | {name.replace("_", "-"): value for name, value in more.items()})
    )


def one_scheduler(settings: Settings) -> dict[str, list[str]]:
    listen = address(*settings.listen)
    return {
        "scheduler": scheduler(
            settings, store=f"sqlite:{settings.state}", listen=listen, cert_dir=settings.certificates
        )
    }


def several_schedulers(settings: Settings) -> dict[str, list[str]]:
    """ZooKeeper, the schedulers, and the address that they have in common."""
    host, port = settings.zookeeper.split(":")
    wanted = {"zookeeper": zookeeper.command(settings.state, host, int(port))}
    for number, own in enumerate(settings.schedulers, 1):
        wanted[f"scheduler-{number}"] = scheduler(
            settings,
            store=f"zk://{settings.zookeeper}/gantry",
            zk_digest_file=settings.login_file,
            listen=f"{LOOPBACK}:{own}",
            hostname=settings.listen[0],  # clients come by that, so the certificate has to name it
            cert_dir=settings.certificates if number == 1 else f"{settings.certificates}-{number}",
        )
    doors = ",".join(f"{LOOPBACK}:{own}" for own in settings.schedulers)
    door = ["--listen", address(*settings.listen), "--to", doors]
    return wanted | {"door": [sys.executable, "-m", "local.door", *door]}


def components(settings: Settings) -> list[Component]:
    """Master, agents, scheduler, in the order in which they start. Ports are picked now and kept over restarts."""
    data = settings.data_dir
    ip, master_port = settings.master.split(":")
    master = {"ip": ip, "port": master_port, "work_dir": data / "master"}
    wanted = {"master": gantry("master", *flags(master))}
    for name in (f"agent-{number}" for number in range(1, settings.agents + 1)):
        agent = {
            "master": settings.master,
            "ip": LOOPBACK,
            "port": free_port(LOOPBACK),
            "hostname": name,
            "work_dir": data / name,
            "resources": settings.agent_resources,
            "attributes": settings.agent_attributes,
            "isolation": ISOLATION,
            "cgroups_root": settings.cgroups_prefix + name,
        }
        wanted[name] = gantry("agent", *flags(agent))
    wanted |= several_schedulers(settings) if settings.ha else one_scheduler(settings)
    return [Component(name, argv, settings.logs / f"{name}.log") for name, argv in wanted.items()]


def build_demo_image(settings: Settings) -> None:
    """Make `localhost/hello:latest` from this machine's programs, once per data directory."""
    if (settings.images / "hello" / "index.json").exists():
        return
    say("building the demo image localhost/hello from this machine's programs")
    work = settings.data_dir / "image.new"
    shutil.rmtree(work, ignore_errors=True)
    try:
        rootfs.build(work / "rootfs")
        settings.images.mkdir(exist_ok=True)
        command = gantry(
            "image", "build", str(work / "rootfs"), "--oci", f"{work / 'oci'}:latest", "--cmd", "/bin/sh"
        )
        command += ["--env", "PATH=/bin", "--env", "LC_ALL=C"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"the demo image could not be built: {(done.stderr or done.stdout).strip()}")
        shutil.rmtree(settings.images / "hello", ignore_errors=True)
        (work / "oci").rename(settings.images / "hello")
    except rootfs.RootfsError as error:
        raise ClusterError(str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@dataclass
class Cluster:
    """The running processes. `run` returns when a signal asks to stop; ClusterError when a process won't stay up."""

    settings: Settings
    parts: list[Component]
    tell: Callable[[str], None] = say
    stopping: bool = False
    _by_pid: dict[int, Component] = field(default_factory=dict)

    def _start(self, part: Component) -> None:
        part.start()
        assert part.process is not None
        self._by_pid[part.process.pid] = part

    def _ended(self, part: Component, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        assert part.process is not None
        part.process.returncode = code
        if self.stopping:
            return
        ran = time.monotonic() - part.started
        part.failures = 1 if ran >= STABLE_SECONDS or code in KILLED else part.failures + 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if part.failures > len(BACKOFF_SECONDS):
            raise ClusterError(f"the {part.name} {how} again and again; its last line: {part.last_line()}")
        wait = BACKOFF_SECONDS[part.failures - 1]
        part.restart_at = time.monotonic() + wait
        self.tell(f"the {part.name} {how}; starting it again (log: {part.log})")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if part := self._by_pid.pop(pid, None):
                self._ended(part, status)

    def step(self, timeout: float) -> None:
        """Wait for a signal or `timeout` seconds; reap, restart."""
        due = [part.restart_at for part in self.parts if part.restart_at is not None]
        wait = max(0.0, min([timeout, *(at - time.monotonic() for at in due)]))
        received = signal.sigtimedwait(SIGNALS, wait)
        if received and received.si_signo != signal.SIGCHLD:
            self.stopping = True
            return
        self._reap()
        for part in self.parts:
            if part.restart_at is not None and part.restart_at <= time.monotonic():
                self._start(part)

    def start(self) -> None:
        """Start everything and wait until the API serves and every agent is a Ready node."""
        for part in self.parts:
            self._start(part)
            self.tell(f"starting the {part.name} (log: {part.log})")
        deadline = time.monotonic() + START_SECONDS
        missing = "the scheduler's API"
        while not self.stopping and (missing := self._missing()):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"after {START_SECONDS:.0f} s still waiting for {missing}; see {self.settings.logs}"
                )
            self.step(0.05)

    def _missing(self) -> str:
        """What the cluster still lacks to be ready, in words; empty when nothing."""
        metrics = json.loads(self._get(self._master(), "/metrics/snapshot") or "{}")
        registered = int(metrics.get("master/slaves_active", 0))
        if registered < self.settings.agents:
            return f"{self.settings.agents - registered} of {self.settings.agents} agents"
        if not self.settings.authority.exists() or self._get(self._api(), "/readyz") is None:
            return "the scheduler's API"
        for number, port in enumerate(self.settings.schedulers, 1):
            if self._get(self._api((LOOPBACK, port)), "/readyz") is None:
                return f"scheduler-{number}'s API"
        nodes = json.loads(self._get(self._api(), "/api/v1/nodes") or "{}").get("items", [])
        lacking = self.settings.agents - sum(map(_is_ready, nodes))
        return f"{lacking} of {self.settings.agents} nodes" if lacking > 0 else ""

    def _master(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.settings.master, timeout=2)

    def _api(self, place: tuple[str, int] | None = None) -> http.client.HTTPSConnection:
        trust = ssl.create_default_context(cafile=self.settings.authority)
        return http.client.HTTPSConnection(*(place or self.settings.listen), timeout=2, context=trust)

    def _get(self, connection: http.client.HTTPConnection, path: str) -> bytes | None:
        token = self.settings.token_file.read_text().strip()
        secure = isinstance(connection, http.client.HTTPSConnection)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if secure else {})
            answer = connection.getresponse()
            body = answer.read()
        except OSError:
            return None
        finally:
            connection.close()
        return body if answer.status == 200 else None

    def wait(self) -> None:
        """Keep everything running until a signal asks to stop."""
        while not self.stopping:
            self.step(3600)

    def stop(self) -> None:
        """Ask every process to end, the scheduler first; the namespace's end takes those that don't."""
        self.stopping = True
        deadline = time.monotonic() + STOP_SECONDS
        last = [part for part in self.parts if part.name == "zookeeper"]  # schedulers say good-bye to it
        for parts in ([part for part in reversed(self.parts) if part not in last], last):
            self._stop(parts, deadline)

    def _stop(self, parts: list[Component], deadline: float) -> None:
        running = [part for part in parts if part.process is not None and part.process.returncode is None]
        for part in running:
            assert part.process is not None
            part.process.terminate()
        while any(part in self._by_pid.values() for part in running) and time.monotonic() < deadline:
            signal.sigtimedwait(SIGNALS, 0.1)
            self._reap()


def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Bring the cluster up, call `ready`, keep it until SIGTERM or SIGINT. Raises ClusterError."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    settings.logs.mkdir(exist_ok=True)
    build_demo_image(settings)
    settings = replace(settings, master=f"{LOOPBACK}:{free_port(LOOPBACK)}")
    if settings.ha:
        zookeeper_port, *ports = free_ports(LOOPBACK, 1 + SCHEDULERS)
        settings = replace(settings, zookeeper=f"{LOOPBACK}:{zookeeper_port}", schedulers=tuple(ports))
    cluster = Cluster(settings, components(settings))
    try:
        cluster.start()
        if not cluster.stopping:
            write_kubeconfig(settings)
            ready()
        cluster.wait()
    finally:
        cluster.stop()
