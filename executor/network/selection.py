"""rkt's `--net`: which networks a pod gets, and in what order (rkt common/common.go NetList, networking/podenv.go).

    --net=NAME[:ARG=VALUE[;ARG=VALUE…]][,NAME…]   none, host, all, or names of configurations

Two networks are built in: `default` (172.16.28.0/24, the way out, masqueraded) and `default-restricted` (172.31.0.0/16,
this machine alone). A file of that name in a directory goes before them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from executor.network import config, plugins
from executor.network.config import FIRST, Network
from executor.network.errors import CniError

HOST: Final = "host"
NONE: Final = "none"
ALL: Final = "all"
DEFAULT: Final = "default"
DIRECTORY: Final = "net.d"
RKT_PLUGINS: Final = "/usr/lib/rkt/plugins/net"


def _built_in(name: str, *, subnet: str, out: bool) -> tuple[str, str]:
    """As rkt's stage1/net/rootfs/etc/rkt/net.d: the version is one that plugins of any age know."""
    ipam: dict[str, Any] = {"type": "host-local", "subnet": subnet}
    ipam |= {"routes": [{"dst": "0.0.0.0/0"}]} if out else {}
    conf = {"cniVersion": FIRST, "name": name, "type": "ptp", "ipMasq": out, "ipam": ipam}
    return json.dumps(conf, indent="\t") + "\n", f"99-{name}.conf"


BUILT_IN: Final = tuple(
    config.parse(text, file)
    for text, file in (
        _built_in("default-restricted", subnet="172.31.0.0/16", out=False),
        _built_in(DEFAULT, subnet="172.16.28.0/24", out=True),
    )
)


def read(texts: Iterable[str]) -> dict[str, str]:
    """Names and their arguments, of all `--net` that were given; `default` for none. Raises ValueError."""
    made: dict[str, str] = {}
    for one in (one for text in texts for one in text.split(",")):
        name, *rest = one.split(":")
        if not name:
            raise ValueError("netname must not be empty")
        if name in made:
            raise ValueError(f'found duplicate netname "{name}"')
        if len(rest) > 1:
            raise ValueError(f'network "{name}" provided with invalid arguments: {":".join(rest)}')
        if rest and name in (ALL, HOST, NONE):
            raise ValueError(f'arguments are not supported by special netname "{name}"')
        made[name] = rest[0] if rest else ""
    for name in (HOST, NONE):
        if name in made and len(made) > 1:
            raise ValueError(f"{name} stands alone")
    return made or {DEFAULT: ""}


def choose(
    nets: dict[str, str], directories: Sequence[Path], say: Callable[[str], None]
) -> list[tuple[Network, str]]:
    """The networks with their arguments, by the names of their files. directories: of configurations (they have a
    `net.d`), the weakest first. Raises CniError."""
    known = {network.name: network for network in BUILT_IN}
    for directory in directories:
        own: dict[str, Network] = {}
        for network in config.directory(directory / DIRECTORY):
            if ALL not in nets and network.name not in nets:
                continue
            if network.name in own:
                say(f'"{network.name}" network already defined, ignoring {network.file}')
                continue
            if network.name in known:
                say(f'overriding "{network.name}" network with one from {directory / DIRECTORY}')
            own[network.name] = network
        known |= own
    if missing := [name for name in nets if name not in known and name != ALL]:
        raise CniError(f"networks not found: {', '.join(missing)}")
    chosen = [network for network in known.values() if ALL in nets or network.name in nets]
    chosen.sort(key=lambda network: network.file)
    files = [network.file for network in chosen]
    if twice := next((file for file in files if files.count(file) > 1), ""):
        raise CniError(f"two networks are called {twice} in different directories: rename one")
    return [(network, nets.get(network.name, "")) for network in chosen]


def places(directories: Sequence[Path]) -> tuple[str, ...]:
    """Where plugins are looked for: with the configurations, the strongest first, rkt's place, and the system's."""
    own = [str(directory / DIRECTORY) for directory in reversed(directories)]
    return (*own, RKT_PLUGINS, *plugins.PLACES)
