"""A ZooKeeper session seen from one event loop: futures for answers, calls on the loop for watches and states.

Answers, watches and changes of state arrive on the loop in the order in which ZooKeeper sent them. A session that
expired is replaced by a new one by itself; whoever cares hears LOST and then CONNECTED.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
    SessionMovedError,
)
from kazoo.protocol.serialization import CheckVersion, Create, Delete, SetData
from kazoo.protocol.states import KeeperState, ZnodeStat
from kazoo.security import ACL

from shared.zookeeper.client import Client
from shared.zookeeper.settings import ZooKeeperSettings

logger = logging.getLogger(__name__)

State = Literal["CONNECTED", "SUSPENDED", "LOST"]

Lost = (
    ConnectionLoss,
    SessionExpiredError,
    OperationTimeoutError,
    ConnectionClosedError,
    SessionMovedError,
    AuthFailedError,
)
"""What says nothing about whether a request was done: the connection went away under it."""

PATIENCE = 15.0
"""Seconds between complaints that ZooKeeper does not answer."""

SOON = 2.0
"""Seconds after the start of the first one."""

EPHEMERAL, SEQUENCE = 1, 2


class Refused(Exception):
    """A multi that was not done: operation number `index` could not be, for `error`."""

    def __init__(self, index: int, error: KazooException) -> None:
        super().__init__(f"operation {index} of a multi: {type(error).__name__}")
        self.index = index
        self.error = error


class Node(NamedTuple):
    data: bytes
    stat: ZnodeStat


Operation: TypeAlias = Any
"""What the `op_…` methods make."""


class Session:
    """`start` it on the loop it is to serve. Requests made while it is not connected wait for the connection, and
    fail with one of `Lost` when it goes away under them."""

    def __init__(
        self,
        settings: ZooKeeperSettings,
        *,
        client_id: tuple[int, bytes] | None = None,
        on_state: Callable[[State], None] = lambda state: None,
    ) -> None:
        """`client_id`: id and password of a session to take over. `on_state` is called on the loop."""
        self.settings = settings
        self.location = settings.location
        self.acl: list[ACL] = settings.acl
        self.state: State = "LOST"
        self.on_state = on_state
        self._client = Client(settings, client_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = asyncio.Event()
        self._refused = False
        self._stopped = False
        self._nagging: asyncio.Task[None] | None = None

    @property
    def client_id(self) -> tuple[int, bytes] | None:
        """Id and password of the session, once there is one; kept while the connection is away."""
        number = self._client._session_id
        return (int(number), bytes(self._client._session_passwd)) if number else None

    @property
    def trouble(self) -> str:
        """One line on why there is no connection; "" while there is one."""
        if self.state == "CONNECTED":
            return ""
        if self._refused:
            return f"ZooKeeper at {self.location.hosts} refuses our login"
        why = self._client.trouble
        return f"waiting for ZooKeeper at {self.location.hosts}" + (f": {why}" if why else "")

    @property
    def refused(self) -> bool:
        """Whether ZooKeeper refused our login; the session is dead then."""
        return self._refused

    # ---- its life

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._client.add_listener(self._listen)
        self._client.start_async()
        self._nagging = asyncio.create_task(self._nag(), name="ZooKeeper complaints")

    async def connected(self) -> None:
        """Waits for a connection, for ever if need be. Raises AuthFailedError when our login is refused."""
        await self._connected.wait()
        if self._refused:
            raise AuthFailedError(self.trouble)

    async def stop(self) -> None:
        """Ends the session at ZooKeeper, when it can be reached, and its threads."""
        if self._loop is None or self._stopped:
            return
        self._stopped = True
        if self._nagging is not None:
            self._nagging.cancel()
        await asyncio.to_thread(_stop, self._client)

    async def _nag(self) -> None:
        patience = SOON
        while True:
            try:
                async with asyncio.timeout(patience):
                    await self._connected.wait()
            except TimeoutError:
                logger.warning("%s", self.trouble)
                patience = PATIENCE
            else:
                await asyncio.sleep(PATIENCE)

    def _listen(self, state: str) -> None:
        self._refused = self._client.client_state == KeeperState.AUTH_FAILED
        self._tell(self._set_state, state)

    def _set_state(self, state: State) -> None:
        if state == self.state and state != "CONNECTED":
            return
        self.state = state
        if state == "CONNECTED" or self._refused:
            self._connected.set()
        else:
            self._connected.clear()
        if not self._stopped:
            self._log(state)
        self.on_state(state)

    def _log(self, state: State) -> None:
        if state == "CONNECTED":
            logger.info("connected to ZooKeeper at %s", self.location.hosts)
        elif self._refused:
            logger.error("%s", self.trouble)
        elif state == "SUSPENDED":
            logger.warning("the connection to ZooKeeper at %s is lost", self.location.hosts)
        else:
            logger.warning("the session at ZooKeeper %s has expired", self.location.hosts)

    # ---- requests

    async def call(self, request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer of one of kazoo's `…_async` methods; sent when there is a connection."""
        assert self._loop is not None
        await self.connected()
        future: asyncio.Future[Any] = self._loop.create_future()
        request(*arguments, **options).rawlink(lambda result: self._tell(_settle, future, result))
        return await future

    def send(self, request: Any) -> asyncio.Future[Any]:
        """A request of kazoo's wire format (`kazoo.protocol.serialization`), sent at once or not at all."""
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        result = self._client.handler.async_result()
        result.rawlink(lambda result: self._tell(_settle, future, result))
        self._client._call(request, result)
        return future

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody wants to know
            logger.debug("ZooKeeper answered after the end")

    def _watch(self, changed: Callable[[], None] | None) -> Callable[[Any], None] | None:
        return changed and (lambda _: self._tell(changed))

    async def get(self, path: str, changed: Callable[[], None] | None = None) -> Node:
        """`changed` is called on the loop once, when the znode changes. Raises NoNodeError."""
        return Node(*await self.call(self._client.get_async, path, watch=self._watch(changed)))

    async def exists(self, path: str, changed: Callable[[], None] | None = None) -> ZnodeStat | None:
        """`changed` is called on the loop once, when the znode is made, changed or deleted."""
        found: ZnodeStat | None = await self.call(self._client.exists_async, path, watch=self._watch(changed))
        return found

    async def children(self, path: str, changed: Callable[[], None] | None = None) -> list[str]:
        """Names, in no order. Raises NoNodeError."""
        return list(await self.call(self._client.get_children_async, path, watch=self._watch(changed)))

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False
    ) -> str:
        """The path made, under our ACL. Raises NodeExistsError, NoNodeError."""
        return str(
            await self.call(
                self._client.create_async, path, data, self.acl, ephemeral=ephemeral, sequence=sequence
            )
        )

    async def set(self, path: str, data: bytes, version: int = -1) -> ZnodeStat:
        """Raises NoNodeError, BadVersionError."""
        stat: ZnodeStat = await self.call(self._client.set_async, path, data, version)
        return stat

    async def delete(self, path: str, version: int = -1) -> None:
        """Raises NoNodeError, BadVersionError, NotEmptyError."""
        await self.call(self._client.delete_async, path, version)

    async def sync(self, path: str) -> None:
        """What is read after this is not older than what anybody was told before it."""
        await self.call(self._client.sync_async, path)

    async def ensure(self, path: str) -> None:
        """Makes `path` and what is above it; our ACL is on `path`'s last name only when we made it."""
        await self.call(self._client.ensure_path_async, path, self.acl)

    # ---- several at once

    def op_create(self, path: str, data: bytes = b"", flags: int = 0) -> Create:
        """`flags`: EPHEMERAL, SEQUENCE."""
        return Create(path, data, self.acl, flags)

    @staticmethod
    def op_set(path: str, data: bytes, version: int = -1) -> SetData:
        return SetData(path, data, version)

    @staticmethod
    def op_delete(path: str, version: int = -1) -> Delete:
        return Delete(path, version)

    @staticmethod
    def op_check(path: str, version: int) -> CheckVersion:
        return CheckVersion(path, version)

    async def multi(self, operations: Sequence[Operation]) -> list[Any]:
        """All or none; what each led to (path, stat or True). Raises Refused for the first that could not be done."""
        transaction = self._client.transaction()
        transaction.operations = list(operations)
        results = await self.call(transaction.commit_async)
        raise_refused(results)
        return list(results)


def raise_refused(results: Sequence[Any]) -> None:
    """Raises Refused for the first operation of a multi that could not be done, given what kazoo says of each."""
    for index, result in enumerate(results):
        if isinstance(result, KazooException) and not isinstance(
            result, RolledBackError | RuntimeInconsistency
        ):
            raise Refused(index, result)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if result.exception is not None:
        future.set_exception(result.exception)
    else:
        future.set_result(result.value)


def _stop(client: Client) -> None:
    try:
        client.stop()
        client.close()
    except KazooException as error:
        logger.debug("closing the ZooKeeper client: %s", error)
