"""`make bench`: every benchmark, one after another (two at once would measure each other)."""

import subprocess
import sys

BENCHMARKS = ("stage1_start", "submit", "submit_scale", "placement")

for name in BENCHMARKS:
    print(f"==> {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
