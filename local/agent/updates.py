"""Status updates until they are acknowledged: one in flight a task, sent again 10 s, 20 s … 10 min later.

Knows streams of updates and nothing of executors. Time and sending are passed in.

Source: Mesos src/slave/task_status_update_manager.cpp, src/slave/constants.hpp.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from local.agent.checkpoint import append
from local.tasks import TERMINAL
from local.wire.proto import Json

log = logging.getLogger(__name__)

RETRY_MIN = 10.0  # STATUS_UPDATE_RETRY_INTERVAL_MIN
RETRY_MAX = 600.0

Key = tuple[str, str]  # framework id, task id


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass
class _Stream:
    path: Path | None  # of task.updates; None: not checkpointed
    pending: deque[Json] = field(default_factory=deque)
    received: set[str] = field(default_factory=set)
    timer: Timer | None = None
    terminated: bool = False  # the terminal update is acknowledged


class StatusUpdates:
    """The streams of all tasks."""

    def __init__(
        self, forward: Callable[[str, Json], None], later: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        """`forward(framework_id, status)` sends to the master; `later(delay, callback)` sets a timer."""
        self._forward = forward
        self._later = later
        self._streams: dict[Key, _Stream] = {}
        self._paused = True  # until the agent is registered

    def update(self, framework_id: str, status: Json, path: Path | None) -> bool:
        """Take a status in, on disk first. False: it was here before, or its stream has ended."""
        key = (framework_id, status["task_id"]["value"])
        stream = self._streams.setdefault(key, _Stream(path))
        if status["uuid"] in stream.received or stream.terminated:
            log.info("ignoring duplicate status update %s of task %s", status["uuid"], key[1])
            return False
        if stream.path is not None:
            append(stream.path, {"update": status})
        self._add(key, stream, status)
        return True

    def _add(self, key: Key, stream: _Stream, status: Json) -> None:
        stream.received.add(status["uuid"])
        stream.pending.append(status)
        if len(stream.pending) == 1 and not self._paused:
            self._send(key, stream, RETRY_MIN)

    def _send(self, key: Key, stream: _Stream, interval: float) -> None:
        self._stop(stream)
        if self._paused or not stream.pending:
            return
        self._forward(key[0], stream.pending[0])
        following = min(interval * 2, RETRY_MAX)
        stream.timer = self._later(interval, lambda: self._send(key, stream, following))

    @staticmethod
    def _stop(stream: _Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None

    def acknowledge(self, framework_id: str, task_id: str, uuid: str) -> bool:
        """The scheduler has it. True: that was the task's terminal update, its stream is over."""
        key = (framework_id, task_id)
        stream = self._streams.get(key)
        if stream is None or not stream.pending or stream.pending[0]["uuid"] != uuid:
            log.warning("ignoring acknowledgement %s of task %s: not what was sent last", uuid, task_id)
            return False
        if stream.path is not None:
            append(stream.path, {"ack": uuid})
        status = stream.pending.popleft()
        self._stop(stream)
        if status["state"] in TERMINAL:
            del self._streams[key]
            return True
        self._send(key, stream, RETRY_MIN)
        return False

    def recover(
        self, framework_id: str, task_id: str, path: Path, updates: list[Json], acked: set[str]
    ) -> None:
        """Rebuild a stream from disk; nothing is sent before `resume`."""
        stream = _Stream(path)
        stream.received = {status["uuid"] for status in updates}
        stream.pending.extend(status for status in updates if status["uuid"] not in acked)
        last = updates[-1] if updates else None
        if last is not None and last["state"] in TERMINAL and last["uuid"] in acked:
            return
        self._streams[framework_id, task_id] = stream

    def pause(self) -> None:
        """The master is away."""
        self._paused = True
        for stream in self._streams.values():
            self._stop(stream)

    def resume(self) -> None:
        """Send what is pending, from the shortest interval on."""
        self._paused = False
        for key, stream in list(self._streams.items()):
            self._send(key, stream, RETRY_MIN)

    def cleanup(self, framework_id: str) -> None:
        """A framework that ends acknowledges nothing any more."""
        for key in [key for key in self._streams if key[0] == framework_id]:
            self._stop(self._streams.pop(key))

    def close(self) -> None:
        for stream in self._streams.values():
            self._stop(stream)
