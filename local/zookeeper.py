"""A ZooKeeper for one machine: Debian's, as a child of `gantry up --ha`. Nothing here speaks its protocol."""

import shutil
from pathlib import Path

JARS = Path("/usr/share/java")
_NETTY = (
    *("buffer", "codec", "common", "handler", "resolver", "transport"),
    *("transport-native-epoll", "transport-native-unix-common"),
)
MEMORY = 256
"""MiB of heap."""


def missing() -> str:
    """What has to be installed first, in words; "" when all is there."""
    if not (JARS / "zookeeper.jar").exists() or shutil.which("java") is None:
        return "there is no ZooKeeper on this machine: install Debian's zookeeper (apt-get install zookeeper)"
    return ""


def command(directory: Path, host: str, port: int) -> list[str]:
    """Writes the configuration into `directory`, where the data is as well; the command that serves it."""
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = [
        f"dataDir={data}",
        f"clientPort={port}",
        f"clientPortAddress={host}",
        "tickTime=1000",
        "admin.enableServer=false",
        "maxClientCnxns=0",
        "autopurge.snapRetainCount=3",
        "autopurge.purgeInterval=24",
    ]
    config = directory / "zoo.cfg"
    config.write_text("\n".join(lines) + "\n")
    jars = [JARS / "zookeeper.jar", *(JARS / f"netty-{name}.jar" for name in _NETTY)]
    options = [f"-Xmx{MEMORY}m", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
    main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    return ["java", *options, "-cp", ":".join(map(str, jars)), main, str(config)]
