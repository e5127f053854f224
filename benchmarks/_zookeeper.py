"""A real ZooKeeper for benchmarks: its configuration and its command line. (Tests have their own, which is small.)"""

from pathlib import Path

HOST = "127.0.0.1"
JAR = Path("/usr/share/java/zookeeper.jar")


def command(directory: Path, port: int, *settings: str, java: tuple[str, ...] = ()) -> list[str]:
    """Of a server that keeps its data below `directory`; settings: more lines of zoo.cfg."""
    lines = [f"dataDir={directory}/zookeeper", f"clientPort={port}", f"clientPortAddress={HOST}"]
    lines += ["admin.enableServer=false", *settings]
    config = directory / "zoo.cfg"
    config.write_text("\n".join(lines) + "\n")
    main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    return ["java", *java, "-cp", str(JAR), main, str(config)]
