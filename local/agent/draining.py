"""An agent that is drained: what it changes in updates, and for how long. Survives the agent's restart.

It lasts until the agent has no framework left, even when the master has reactivated the agent before: launches are
dropped until then.

Source: Mesos src/slave/slave.cpp (`drain`, `updateDrainStatus`, `statusUpdate`).
"""

import logging
from pathlib import Path

from local.agent import checkpoint
from local.wire.proto import Json

log = logging.getLogger(__name__)


class Drain:
    """`config`: the DrainConfig, None for an agent that is in use."""

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / "meta" / "drain.config"
        self.config: Json | None = checkpoint.read(self._path)

    def begin(self, config: Json) -> None:
        log.info("draining")
        self.config = config
        checkpoint.write(self._path, config)

    def end(self) -> None:
        """Nothing is left to drain."""
        if self.config is not None:
            log.info("drained")
            self.config = None
            self._path.unlink(missing_ok=True)

    def kill_policy(self, own: Json | None) -> Json | None:
        """A task's own grace, cut to what the operator allows."""
        most = (self.config or {}).get("max_grace_period")
        if most is None:
            return own
        grace = (own or {}).get("grace_period", most)
        return {"grace_period": min(grace, most, key=lambda one: one["nanoseconds"])}

    def rewrite(self, status: Json) -> None:
        """A task that is killed now is killed by the drain, whatever its executor says."""
        if self.config is None or status["state"] not in ("TASK_KILLING", "TASK_KILLED"):
            return
        status["reason"] = "REASON_AGENT_DRAINING"
        if status["state"] == "TASK_KILLED" and self.config.get("mark_gone"):
            status["state"] = "TASK_GONE_BY_OPERATOR"
