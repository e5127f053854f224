"""A short run of the harness: a real cluster, faults, a load, and the judge. `make chaos` runs longer ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEED = os.environ.get("GANTRY_SEED", "390")
DURATION = "30"

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.timeout(420),
    pytest.mark.xdist_group("chaos"),
]


def test_promises_are_kept_whatever_fails(can_run: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "--seed", SEED, "--duration", DURATION]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"seed {SEED} passed" in done.stdout
