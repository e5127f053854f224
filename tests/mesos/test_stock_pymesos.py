"""Stock pymesos, scheduler and executor, on the embedded Mesos: four real processes."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STOCK = Path(__file__).parent / "stock"


@pytest.mark.system
def test_a_task_of_stock_pymesos_completes(mesos: Any) -> None:
    _, address = mesos.master()
    mesos.agent(address)
    command = shlex.join([sys.executable, str(STOCK / "executor.py")])
    scheduler = mesos.spawn("scheduler", str(STOCK / "scheduler.py"), address, command, pipe=True)
    try:
        output, _ = scheduler.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        scheduler.kill()
        output, _ = scheduler.communicate()
        pytest.fail(f"the task did not complete:\n{output}\n{mesos.logs()}")
    said = [json.loads(line) for line in output.splitlines()]
    assert said[0]["event"] == "registered"
    assert [(s["state"], s["data"]) for s in said[1:]] == [
        ("TASK_RUNNING", "from the stock executor"),
        ("TASK_FINISHED", "from the stock executor"),
    ]
    assert scheduler.returncode == 0
