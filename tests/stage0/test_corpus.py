"""The malicious corpus: none of it writes outside, hangs or crashes, and each refusal says what it is about."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

RUNNER = Path(__file__).with_name("corpus_run.py")
PARTS = {
    "layers": (("layer", "blob"), 400),
    "documents": (("manifest", "config", "index"), 400),
    "acis": (("aci", "aci-manifest"), 500),
    "archives": (("docker", "oci"), 90),
}
# A tmpfs in a mount namespace of its own: fast, and gone with the process however that ends.
ENTER = 'mount -t tmpfs tmpfs "$1" && site=$1 && shift && exec "$@" "$site" $KINDS'


@pytest.mark.parametrize("part", PARTS)
def test_corpus(part: str, tmp_path: Path) -> None:
    kinds, at_least = PARTS[part]
    site = tmp_path / "site"
    site.mkdir()
    python = [sys.executable, "-W", "error", str(RUNNER)]
    argv = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(site), *python]
    environ = {"PYTHONPATH": str(RUNNER.parents[2]), "PATH": os.environ["PATH"], "KINDS": " ".join(kinds)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=90, env=environ)
    if "mount:" in done.stderr:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    problems = {line["name"]: line["problem"] for line in said if "problem" in line}
    started = [line["name"] for line in said if "started" in line]
    assert done.returncode == 0, f"ended in {started[-1:]} with {done.returncode}: {done.stderr[-2000:]}"
    assert [f"{name}: {problem}" for name, problem in problems.items() if problem] == []
    assert len(problems) == len(started) >= at_least
