"""Where a cluster of `gantry up` keeps what, and how it is configured: one frozen value, passed to every part."""

import base64
import hashlib
import json
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

DEFAULT_RESOURCES = "cpus:4;mem:8192;disk:20000;ports:[31000-32000]"


def free_port(host: str) -> int:
    """A TCP port of `host` that nobody listens on, for this process and those that it starts."""
    return free_ports(host, 1)[0]


def free_ports(host: str, count: int) -> list[int]:
    """All different, and kept until this process ends, also while who listens there is being started again.

    Each stays bound to a socket that does not listen: the kernel lends the port to nobody who asks for any (bind to 0,
    or connect), while a server that names it and sets SO_REUSEADDR, as servers do, is let in. Source: Linux,
    net/ipv4/inet_connection_sock.c, inet_csk_find_open_port and inet_bind_conflict.
    """
    kept = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) for _ in range(count)]
    for one in kept:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, 0))
    ports = [int(one.getsockname()[1]) for one in kept]
    for one in kept:
        one.detach()  # the kernel closes it when this process ends
    return ports


@dataclass(frozen=True)
class Settings:
    """One cluster on this machine.

    `listen`: (host, port) of the scheduler's API, its port never 0. `master`: host:port, picked at each start.
    """

    data_dir: Path
    listen: tuple[str, int]
    agents: int = 1
    agent_resources: str = DEFAULT_RESOURCES
    agent_attributes: str = ""
    device_dir: Path = Path("/dev")
    image_config: Path | None = None
    executor_options: tuple[str, ...] = ()
    log_level: str = "info"
    master: str = ""
    ha: bool = False
    zookeeper: str = ""
    schedulers: tuple[int, ...] = ()
    """With `ha`: where the state is kept, host:port, and the ports of the schedulers behind `listen`; picked at each
    start, like `master`."""

    @property
    def cgroups_prefix(self) -> str:
        """Begins the name of every cgroup of this cluster and of no other."""
        return "gantry-" + hashlib.sha256(bytes(self.data_dir)).hexdigest()[:12] + "-"

    @property
    def server(self) -> str:
        host, port = self.listen
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    @property
    def certificates(self) -> Path:
        """Where the scheduler keeps its serving certificate."""
        return self.data_dir / "certificates"

    @property
    def authority(self) -> Path:
        """The certificate that clients trust; the scheduler makes it at its first start."""
        return self.certificates / "ca.crt"

    @property
    def state(self) -> Path:
        """Where what users want is kept."""
        return self.data_dir / ("zookeeper" if self.ha else "scheduler.db")

    @property
    def other_state(self) -> Path:
        """The same for the other kind of cluster; both in one directory would be two frameworks."""
        return self.data_dir / ("scheduler.db" if self.ha else "zookeeper")

    @property
    def login_file(self) -> Path:
        """With `ha`: to whom the state in ZooKeeper belongs, as user:password."""
        return self.data_dir / "zookeeper-login"

    @property
    def token_file(self) -> Path:
        return self.data_dir / "token"

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "kubeconfig"

    @property
    def images(self) -> Path:
        return self.data_dir / "images"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text`, readable by its owner alone from the first moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def write_token(settings: Settings) -> None:
    """Write the cluster's bearer token and its login to ZooKeeper, if there are none yet."""
    if not settings.token_file.exists():
        write_private(settings.token_file, secrets.token_urlsafe(32) + "\n")
    if settings.ha and not settings.login_file.exists():
        write_private(settings.login_file, f"gantry:{secrets.token_urlsafe(32)}\n")


def write_kubeconfig(settings: Settings) -> None:
    """Write the kubeconfig; needs the token and the scheduler's authority."""
    authority = base64.b64encode(settings.authority.read_bytes()).decode()
    server = {"server": settings.server, "certificate-authority-data": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gantry", "cluster": server}],
        "users": [{"name": "gantry", "user": {"token": settings.token_file.read_text().strip()}}],
        "contexts": [{"name": "gantry", "context": {"cluster": "gantry", "user": "gantry"}}],
        "current-context": "gantry",
    }
    write_private(settings.kubeconfig, json.dumps(config, indent=2) + "\n")  # JSON is YAML
