"""The cluster under test: three ZooKeepers, a master, two agents, two schedulers, each on a host of its own.

Or, with SQLite, one scheduler and no ZooKeeper.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from harness.network import Network, run
from harness.processes import Process, children
from harness.schedule import AGENTS, MASTER, Layout
from local import cluster as local_cluster
from local.settings import Settings
from local.zookeeper import JARS

ROOT = Path(__file__).resolve().parents[3]
CLOCK = Path(__file__).with_name("clock.c")
DISK, DISK_ALONE = 24, 96
"""MiB that a ZooKeeper has, and a scheduler with SQLite, whose log may have 64."""
SESSION = 4
"""Seconds."""
BLKIO = Path("/sys/fs/cgroup/blkio")
PORT, MASTER_PORT, CLIENTS = 8080, 5050, 2181


def missing_for_slow_disk() -> str:
    return (
        "" if (BLKIO / "blkio.throttle.write_iops_device").exists() else "no cgroup v1 blkio with throttling"
    )


def missing_for_clock() -> str:
    return "" if shutil.which("cc") else "no C compiler (cc)"


class Cluster:
    """`build` it, then call `step` over and over: what ended is started again."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory, self.layout = directory, layout
        self.settings = Settings(directory, ("127.0.0.1", 1))
        self.prefix = self.settings.cgroups_prefix
        self.network = Network(layout.hosts, directory)
        self.token = secrets.token_hex(16)
        self.processes: dict[str, Process] = {}
        self.lock = threading.RLock()

    def ip(self, host: str) -> str:
        return self.network.addresses[host]

    # ---- building

    def build(self) -> None:
        self.network.build()
        self.settings.logs.mkdir()
        self.settings.token_file.write_text(self.token + "\n")
        self.settings.token_file.chmod(0o600)
        local_cluster.build_demo_image(self.settings)
        for number, host in enumerate(self.layout.zookeepers, 1):
            self._zookeeper(host, number)
        self._add(
            MASTER,
            self._gantry("master", port=MASTER_PORT, work_dir=self.directory / MASTER, ip=self.ip(MASTER)),
        )
        for host in AGENTS:
            self._agent(host)
        self._build_clock()
        for host in self.layout.schedulers:
            self._scheduler(host)
        for process in self.processes.values():
            process.start()

    def _add(self, host: str, command: list[str], **more: Any) -> Process:
        log = self.settings.logs / f"{host}.log"
        made = self.processes[host] = Process(host, [*self.network.on(host), *command], log, **more)
        made.environ["PYTHONPATH"] = str(ROOT)
        return made

    @staticmethod
    def _gantry(command: str, **flags: object) -> list[str]:
        """Mesos' flags have underscores, ours have none."""
        if command in ("scheduler", "executor"):
            flags = {name.replace("_", "-"): value for name, value in flags.items()}
        return [sys.executable, "-m", "gantry", command, *local_cluster.flags(flags)]

    def disk(self, host: str) -> Path:
        return self.directory / host / "disk"

    def device(self, host: str) -> str:
        """MAJOR:MINOR of the disk of a ZooKeeper."""
        found = subprocess.run(
            ["mountpoint", "-d", self.disk(host)], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    def _make_disk(self, host: str, size: int) -> dict[str, Path]:
        """A small file system of its own, so that it can be full, and slow, for it alone. Options of its process."""
        disk = self.disk(host)
        disk.mkdir(parents=True)
        image = self.directory / host / "image"
        run("truncate", "-s", f"{size}M", str(image))
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image))
        run("mount", "-o", "loop", str(image), str(disk))
        if missing_for_slow_disk():
            return {}
        cgroup = BLKIO / f"{self.prefix}{host}"
        cgroup.mkdir()
        return {"cgroup": cgroup}

    def _zookeeper(self, host: str, number: int) -> None:
        options = self._make_disk(host, DISK)
        home, disk = self.directory / host, self.disk(host)
        (disk / "data").mkdir()
        (disk / "data" / "myid").write_text(str(number))
        lines = [f"dataDir={disk}/data", "tickTime=200", "initLimit=50", "syncLimit=15", "maxClientCnxns=0"]
        lines += [
            "minSessionTimeout=400",
            "maxSessionTimeout=60000",
            "admin.enableServer=false",
            "snapCount=500",
        ]
        lines += [
            "autopurge.snapRetainCount=3",
            f"clientPort={CLIENTS}",
            f"clientPortAddress={self.ip(host)}",
        ]
        lines += [f"server.{n}={self.ip(one)}:2888:3888" for n, one in enumerate(self.layout.zookeepers, 1)]
        (home / "zoo.cfg").write_text("\n".join(lines) + "\n")
        jars = [JARS / "zookeeper.jar", *JARS.glob("netty-*.jar")]
        java = ["java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        java += ["-Dzookeeper.preAllocSize=64", "-cp", ":".join(map(str, jars))]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self._add(host, [*java, main, str(home / "zoo.cfg")], **options)

    def _agent(self, host: str) -> None:
        flags = self._gantry(
            "agent",
            master=f"{self.ip(MASTER)}:{MASTER_PORT}",
            ip=self.ip(host),
            hostname=host,
            work_dir=self.directory / host,
            resources="cpus:8;mem:8192;disk:20000;ports:[31000-32000]",
            cgroups_root=self.prefix + host,
            executor_reregistration_timeout="15secs",
        )
        self._add(host, flags)

    @property
    def _clock_library(self) -> Path:
        return self.directory / "clock.so"

    def _build_clock(self) -> None:
        if not missing_for_clock():
            run("cc", "-shared", "-fPIC", "-O1", "-o", str(self._clock_library), str(CLOCK))

    def set_clock(self, host: str, seconds: int) -> None:
        with (self.directory / f"{host}.clock").open("r+b") as file:
            file.write(struct.pack("q", seconds * 10**9))

    def _scheduler(self, host: str) -> None:
        executor = self._gantry(
            "executor", state_dir=self.directory / "executor", local_images=self.settings.images
        )
        zookeepers = ",".join(f"{self.ip(one)}:{CLIENTS}" for one in self.layout.zookeepers)
        options = {} if zookeepers else self._make_disk(host, DISK_ALONE)
        flags = self._gantry(
            "scheduler",
            master=f"{self.ip(MASTER)}:{MASTER_PORT}",
            store=f"zk://{zookeepers}/gantry" if zookeepers else f"sqlite:{self.disk(host)}/state.db",
            listen=f"{self.ip(host)}:{PORT}",
            token_file=self.settings.token_file,
            executor_command=" ".join(["env", f"PYTHONPATH={ROOT}", *executor]),
            zk_session_timeout=SESSION,
        )
        process = self._add(host, flags, **options)
        if not missing_for_clock():
            (self.directory / f"{host}.clock").write_bytes(bytes(8))
            process.environ["LD_PRELOAD"] = str(self._clock_library)
            process.environ["CHAOS_CLOCK"] = str(self.directory / f"{host}.clock")

    # ---- life

    def step(self) -> list[tuple[str, int]]:
        """Names and codes of those which ended by themselves."""
        with self.lock:
            ended = [(name, process.step()) for name, process in self.processes.items()]
        return [(name, code) for name, code in ended if code is not None]

    def pids(self, host: str) -> tuple[int, int]:
        """Of a scheduler: its parent and the scheduler proper; 0 for what is not there."""
        parent = self.processes[host].pid
        return parent, next(iter(children(parent)), 0) if parent else 0

    # ---- asking

    def ask(self, host: str, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """Status and body; (0, why) when there is no answer."""
        connection = http.client.HTTPConnection(self.ip(host), PORT, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """JSON of the first scheduler that answers; None when none does."""
        for host in self.layout.schedulers:
            status, body = self.ask(host, path)
            if status == 200:
                return json.loads(body)
        return None

    def master(self, kind: str) -> Any:
        """What the master's operator API answers; None without an answer."""
        connection = http.client.HTTPConnection(self.ip(MASTER), MASTER_PORT, timeout=5)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            connection.request("POST", "/api/v1", json.dumps({"type": kind}), headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return json.loads(body)[kind.lower()] if answer.status == 200 else None

    def leader(self) -> str:
        """The one that says that it leads; the first, when none does."""
        for host in self.layout.schedulers:
            if b"this scheduler leads" in self.ask(host, "/readyz?verbose", 0.5)[1]:
                return host
        return self.layout.schedulers[0]
