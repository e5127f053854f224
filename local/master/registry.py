"""The agents a master has ever admitted, on disk: what a restarted master must remember.

Frameworks and tasks are not in it, as in Mesos: agents bring them back. One small JSON file, replaced atomically
whenever an agent is admitted, marked unreachable or gone; not fsync'ed, a power cut may cost the last change. Of many
agents that come at once, all but the first are written together soon after: should that get lost, they are new again.

Source: Mesos src/master/registrar.cpp, src/master/registry.proto.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

TOGETHER = 0.1
"""Seconds within which admissions are written together."""
_KEPT = ("admitted", "unreachable", "gone", "deactivated", "maintenance", "quotas")


class RegistryError(Exception):
    """The registry cannot be read or written; one line."""


@dataclass
class Registry:
    """Agents by fate: AgentInfo of the admitted, times of the unreachable and the gone."""

    path: Path
    admitted: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreachable: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    deactivated: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By agent: nothing, or `drain_info` and `start` of a drain."""
    maintenance: dict[str, Any] = field(default_factory=dict)
    """`windows` and `down`, see `local.master.maintenance`."""
    quotas: dict[str, dict[str, Any]] = field(default_factory=dict)
    """QuotaConfigs without their role, by role."""
    _waiting: asyncio.TimerHandle | None = None
    _saved: float = 0.0

    @classmethod
    def open(cls, work_dir: Path) -> "Registry":
        """Read `work_dir`/registry.json; a missing one is empty. Raises RegistryError."""
        path = work_dir / "registry.json"
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            content = orjson.loads(path.read_bytes()) if path.exists() else {}
        except OSError as error:
            raise RegistryError(f"--work_dir {work_dir}: {error.strerror}: {error.filename}") from error
        except ValueError as error:
            raise RegistryError(f"{path}: {error}; remove it to start with no agents") from error
        return cls(path, **{key: content.get(key, {}) for key in _KEPT})

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._waiting is not None:
            self._save()

    def _save_soon(self) -> None:
        if self._waiting is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or time.monotonic() - self._saved > TOGETHER:
            self._save()
        else:
            self._waiting = loop.call_later(TOGETHER, self._save)

    def _save(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        content = {key: getattr(self, key) for key in _KEPT}
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_bytes(orjson.dumps(content))
            os.replace(temporary, self.path)
        except OSError as error:
            raise RegistryError(f"{self.path}: {error}") from error
        self._saved = time.monotonic()

    def admit(self, agent_id: str, info: dict[str, Any]) -> None:
        self.admitted[agent_id] = info
        self.unreachable.pop(agent_id, None)
        self._save_soon()

    def mark_unreachable(self, agent_id: str, when: float) -> None:
        self.admitted.pop(agent_id, None)
        self.unreachable[agent_id] = when
        self._save()

    def mark_gone(self, agent_id: str, when: float) -> None:
        self.admitted.pop(agent_id, None)
        self.unreachable.pop(agent_id, None)
        self.gone[agent_id] = when
        self.deactivated.pop(agent_id, None)
        self._save()

    def keep_deactivated(self, agent_id: str, what: dict[str, Any] | None) -> None:
        """An agent is drained or deactivated; None: no longer."""
        if what is None:
            self.deactivated.pop(agent_id, None)
        else:
            self.deactivated[agent_id] = what
        self._save()

    def keep_maintenance(self, what: dict[str, Any]) -> None:
        self.maintenance = what
        self._save()

    def keep_quotas(self, what: dict[str, dict[str, Any]]) -> None:
        self.quotas = what
        self._save()

    def remove(self, agent_id: str) -> None:
        """An agent that unregistered by itself."""
        self.admitted.pop(agent_id, None)
        self.deactivated.pop(agent_id, None)
        self._save()
