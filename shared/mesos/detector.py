"""Where the leading master is: a list of addresses, or ZooKeeper through pymesos' MasterDetector (kazoo).

Not an election of ours: it only reads what Mesos' masters wrote (`json.info_…` below the path).

Sources: Mesos src/master/detector/zookeeper.cpp, docs/high-availability.md.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import orjson
from kazoo.client import KazooState
from kazoo.exceptions import KazooException
from kazoo.recipe.watchers import ChildrenWatch

from shared.mesos import vocabulary  # noqa: F401  (imports pymesos without its side effects)
from shared.mesos.http import Endpoint
from shared.zookeeper.client import HideAuth
from shared.zookeeper.location import Location

from pymesos.detector import MasterDetector  # isort: skip

logger = logging.getLogger(__name__)

_PATIENCE = 15.0  # seconds between complaints that ZooKeeper does not answer


class Masters(Protocol):
    """What a driver asks. `on_change` is set by the driver and called on its loop when the leader is known to
    be another one (never by a list of addresses)."""

    on_change: Callable[[], None]

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def endpoint(self) -> Endpoint:
        """The master to try now; waits until there is one."""

    def redirected(self, endpoint: Endpoint) -> None:
        """A master said the leader is at `endpoint`."""

    def failed(self) -> None:
        """The master that `endpoint()` returned last did not answer."""


class AddressList:
    """`host:port`, or several: one after the other until one answers or tells where the leader is."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._endpoints = endpoints
        self._at = 0
        self._hint: Endpoint | None = None

    def __str__(self) -> str:
        return ",".join(str(one) for one in self._endpoints)

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def endpoint(self) -> Endpoint:
        """The leader a redirect named, or the address whose turn it is."""
        return self._hint or self._endpoints[self._at]

    def redirected(self, endpoint: Endpoint) -> None:
        """Go there, until it fails."""
        self._hint = endpoint

    def failed(self) -> None:
        """Forget the hint; the next address's turn."""
        self._hint = None
        self._at = (self._at + 1) % len(self._endpoints)


_hide_auth = HideAuth()


class _Detector(MasterDetector):
    """pymesos' detector, with credentials in the URL, and without its two ways to give up for ever: a
    ZooKeeper that is not up yet, and a path that is not there yet because no master has started."""

    def __init__(self, hosts: str, login: str, agent: Any) -> None:
        super().__init__(hosts, agent)
        self.watching = False
        if login:
            self.zk.auth_data.add(("digest", login))
            self.zk.logger.addFilter(_hide_auth)

    def watch(self) -> bool:
        """Watch the masters' znodes; whether that worked. Blocks while ZooKeeper is away."""
        ChildrenWatch(self.zk, "", self.choose)  # silently stops when there is no such path
        return self.watching

    def choose(self, children: list[str]) -> bool:
        self.watching = True
        return super().choose([name for name in children if name.startswith("json.info_")])


class ZooKeeperMasters:
    """`zk://[user:password@]host:port,…/path`: the master whose sequence number is the lowest.

    While ZooKeeper itself is away the last leader stays: its own stream tells when it is gone.
    """

    def __init__(self, url: str, retry: float = 2.0) -> None:
        """`retry`: seconds between looks for a path that is not there yet."""
        location = Location.parse(url)
        self.on_change: Callable[[], None] = lambda: None
        self._hosts, self._login = location.hosts + location.path, location.login
        self._retry = retry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._detector: _Detector | None = None
        self._watching: asyncio.Task[None] | None = None
        self._leader: Endpoint | None = None
        self._known = asyncio.Event()

    def __str__(self) -> str:
        return f"zk://{self._hosts}"

    async def start(self) -> None:
        """Begin to watch; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._detector = _Detector(self._hosts, self._login, self)
        self._watching = asyncio.create_task(self._watch(self._detector), name="mesos master detector")

    async def stop(self) -> None:
        """Leave ZooKeeper."""
        if self._watching is not None and self._detector is not None:
            self._watching.cancel()
            await asyncio.to_thread(_stop, self._detector)
            await asyncio.wait((self._watching,))

    async def endpoint(self) -> Endpoint:
        """The leader; waits for one."""
        while self._leader is None:
            await self._known.wait()
        return self._leader

    def redirected(self, endpoint: Endpoint) -> None:
        """ZooKeeper is the authority; a redirect only says that we are early."""
        logger.info("redirected to %s; waiting for ZooKeeper to say so", endpoint)

    def failed(self) -> None:
        """The next `endpoint()` is whatever ZooKeeper says then."""

    # ---- pymesos' detector calls these in a thread of kazoo's

    def onNewMasterDetectedMessage(self, data: bytes | None) -> None:  # noqa: N802
        """The leader's MasterInfo, or None when it went away while it was read."""
        leader: Endpoint | None = None
        try:
            address = orjson.loads(data or b"null")["address"]
            ip, hostname = address.get("ip"), address.get("hostname")
            leader = Endpoint(
                ip or address["hostname"], int(address["port"]), alias=hostname if ip != hostname else None
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("the leading master's znode cannot be read: %r", error)
        self._tell(leader)

    def onNoMasterDetectedMessage(self) -> None:  # noqa: N802
        """No master is leading."""
        self._tell(None)

    def _tell(self, leader: Endpoint | None) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._set_leader, leader)
        except RuntimeError:  # the loop is closed: nobody wants to know
            logger.debug("the leader changed after the end")

    def _set_leader(self, leader: Endpoint | None) -> None:
        if leader == self._leader:
            return
        logger.info("the leading master is %s", leader or "unknown")
        self._leader = leader
        if leader is None:
            self._known.clear()
        else:
            self._known.set()
        self.on_change()

    # ---- watching

    async def _watch(self, detector: _Detector) -> None:
        loop = asyncio.get_running_loop()
        connected = asyncio.Event()

        def listen(state: str) -> None:
            if state == KazooState.CONNECTED and not loop.is_closed():
                loop.call_soon_threadsafe(connected.set)

        detector.zk.add_listener(listen)
        detector.zk.start_async()
        while not connected.is_set():
            try:
                async with asyncio.timeout(_PATIENCE):
                    await connected.wait()
            except TimeoutError:
                logger.warning("ZooKeeper at %s does not answer", self._hosts)
        while not detector.watching:
            try:
                if not await asyncio.to_thread(detector.watch):
                    logger.warning("no Mesos master has registered at zk://%s yet", self._hosts)
            except KazooException as error:
                logger.error("cannot watch the masters at zk://%s: %r", self._hosts, error)
            await asyncio.sleep(self._retry)


def _stop(detector: _Detector) -> None:
    try:
        detector.zk.stop()
        detector.zk.close()
    except KazooException as error:
        logger.debug("closing the ZooKeeper client: %s", error)


def masters_of(master: str) -> Masters:
    """`host:port` or `https://host:port`, several of them with commas, or `zk://…`; ValueError when it is none."""
    if master.startswith("zk://"):
        return ZooKeeperMasters(master)
    endpoints = [Endpoint.parse(item) for item in master.split(",") if item.strip()]
    if not endpoints:
        raise ValueError("master: expecting host:port, host1:port,host2:port or zk://…")
    return AddressList(endpoints)
