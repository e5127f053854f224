"""One candidacy in ZooKeeper: an ephemeral znode; the oldest one leads, after it has claimed the next epoch.

    <root>/leader/c-<random>-<sequence>    data: the Candidate
    <root>/epoch                           its version is the epoch; every write of a leader's names it

The claim is one transaction: my candidacy is there still, and the epoch is the next one. So an old leader is fenced
from the moment a new one may begin, and nobody claims whose candidacy has ended. Everybody watches the few candidates.

A request whose answer is lost with the connection may have been done or not: what is there is looked up before anything
else. That is why the name has something random in it.

Sources: ZooKeeper's recipe for leader election; zookeeperProgrammers.html, "ZooKeeper Sessions".
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Protocol

from kazoo.exceptions import KazooException, NoNodeError

from scheduler.election.messages import Candidate
from shared.zookeeper.session import Lost, Refused, Session, State

log = logging.getLogger(__name__)

LEADER = "leader"
EPOCH = "epoch"

RETRY = 1.0
"""Seconds after a request that ZooKeeper refused for a reason that should not be."""


class Listener(Protocol):
    """Who is told; called on the loop."""

    def leads(self, epoch: int) -> None:
        """We lead from now on."""

    def follows(self, leader: Candidate | None) -> None:
        """Another one leads, or is about to; None: nobody is a candidate."""

    def cut_off(self, on: bool) -> None:
        """ZooKeeper is out of reach; or it is back, and what was said before holds still."""

    def lost(self, why: str) -> None:
        """We led and lead no more."""


class Candidacy:
    """See the module. `session` is not started yet, its `on_state` is ours."""

    def __init__(self, session: Session, listener: Listener) -> None:
        self._session = session
        self._listener = listener
        self._directory = session.location.child(LEADER)
        self._epoch_path = session.location.child(EPOCH)
        session.on_state = self._state_changed
        self._wanted: Candidate | None = None
        self._told: Candidate | None = None
        self._path = ""
        self._guid = ""
        """Of a znode that may be there though we do not know its path."""
        self._epoch: int | None = None
        self._checked = False
        """Whether we know, since the last reconnection, that our epoch is still the last."""
        self._wake = asyncio.Event()
        self._gone = asyncio.Event()
        self._gone.set()

    # ---- from outside

    def enter(self, candidate: Candidate) -> None:
        """Becomes a candidate, or changes what the others are told of it."""
        self._wanted = candidate
        self._gone.clear()
        self._wake.set()

    def leave(self) -> None:
        """Is no candidate any more; who comes next may lead at once."""
        self._wanted = self._epoch = None
        self._wake.set()

    async def left(self) -> None:
        """Waits until nothing of us is in ZooKeeper, after `leave`."""
        await self._gone.wait()

    async def run(self) -> None:
        """Until cancelled."""
        self._session.start()
        while True:
            await self._session.connected()
            self._wake.clear()
            try:
                await self._step()
            except Lost as error:
                log.info("the answer of ZooKeeper is lost: %r", error)
                continue  # once it is connected again
            except (KazooException, Refused) as error:
                log.warning("ZooKeeper refused a request of the election, trying again: %r", error)
                await asyncio.sleep(RETRY)
                continue
            await self._wake.wait()

    # ---- the session

    def _state_changed(self, state: State) -> None:
        if state == "CONNECTED":
            if self._epoch is None:  # a leader first makes sure that it leads still
                self._listener.cut_off(False)
        else:
            self._checked = False
            self._listener.cut_off(True)
            if state == "LOST":
                self._end()
        self._wake.set()

    def _end(self) -> None:
        self._path = self._guid = ""
        self._told = None
        if self._wanted is None:
            self._gone.set()
        if self._epoch is not None:
            self._lose("the ZooKeeper session has expired")

    def _lose(self, why: str) -> None:
        self._epoch = None
        self._listener.lost(why)

    # ---- one step: whatever is to be done now

    async def _step(self) -> None:
        if self._guid:
            await self._find()
        if self._wanted is None:
            await self._remove()
        elif not self._path:
            await self._create(self._wanted)
        elif self._told != self._wanted:
            await self._tell(self._wanted)
        await self._look()

    async def _create(self, candidate: Candidate) -> None:
        await self._session.ensure(self._directory)
        self._guid = uuid.uuid4().hex
        prefix = f"{self._directory}/c-{self._guid}-"
        self._path = await self._session.create(prefix, candidate.to_bytes(), ephemeral=True, sequence=True)
        self._guid, self._told = "", candidate
        log.info("this scheduler may lead: %s", self._path)

    async def _find(self) -> None:
        names = await self._candidates()
        self._path = next((f"{self._directory}/{name}" for name in names if self._guid in name), "")
        self._guid = ""

    async def _tell(self, candidate: Candidate) -> None:
        await self._session.set(self._path, candidate.to_bytes())
        self._told = candidate

    async def _remove(self) -> None:
        if self._path:
            try:
                await self._session.delete(self._path)
            except NoNodeError:
                pass  # all the better
            self._path, self._told = "", None
        if self._wanted is None:
            self._gone.set()

    # ---- who leads

    async def _candidates(self) -> list[str]:
        """Names, the oldest first. `_wake` is set when there are others."""
        try:
            names = await self._session.children(self._directory, self._wake.set)
        except NoNodeError:
            if await self._session.exists(self._directory, self._wake.set):
                self._wake.set()  # made meanwhile: that watch tells of no candidates
            return []
        return sorted(names, key=lambda name: name.rpartition("-")[2])

    async def _look(self) -> None:
        names = await self._candidates()
        mine = self._path.rpartition("/")[2]
        if mine and mine not in names:
            self._path, self._told = "", None
            if self._epoch is not None:
                self._lose("somebody removed the leader's znode")
            self._wake.set()
        elif mine and names[0] == mine:
            await self._lead()
        elif self._epoch is not None:
            self._lose("an older candidate is there")
        elif names:
            await self._follow(f"{self._directory}/{names[0]}")
        else:
            self._listener.follows(None)

    async def _follow(self, path: str) -> None:
        try:
            node = await self._session.get(path, self._wake.set)
        except NoNodeError:
            self._wake.set()
            return
        self._listener.follows(Candidate.from_bytes(node.data))

    # ---- the epoch

    async def _lead(self) -> None:
        if self._epoch is None:
            await self._claim()
        elif not self._checked:
            node = await self._session.get(self._epoch_path)
            if self._epoch is None:
                return
            if node.stat.version != self._epoch:
                self._lose(f"another scheduler has claimed epoch {node.stat.version}")
                return
            self._checked = True
            self._listener.cut_off(False)

    async def _claim(self) -> None:
        try:
            version = (await self._session.get(self._epoch_path)).stat.version
        except NoNodeError:
            await self._session.ensure(self._epoch_path)
            version = 0
        if self._wanted is None:
            return
        data = self._wanted.to_bytes()
        mine = self._session.op_check(self._path, -1)
        try:
            results = await self._session.multi([mine, self._session.op_set(self._epoch_path, data, version)])
        except Refused as error:
            log.info("the epoch is not claimed yet: %s", error)
            self._wake.set()
            return
        if self._wanted is None:
            return  # it left meanwhile: an epoch without a leader
        self._epoch, self._checked = results[1].version, True
        log.info("this scheduler leads, epoch %d", self._epoch)
        self._listener.leads(self._epoch)
