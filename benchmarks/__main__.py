"""`make bench`: every benchmark, one after another (two at once would measure each other).

python -m benchmarks [--list] [--json DIR] [NAME…]
"""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """What each measures: the first line of its file."""
    files = sorted(path for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def main() -> int:
    """The exit code: that of the first benchmark that fails."""
    found = benchmarks()
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Measure Gantry against peers in the same run."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(found)}; all without one")
    parser.add_argument("--list", action="store_true", help="say what each measures, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write the figures of each to DIR/NAME.json")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in found]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(found)}")
    if args.list:
        for name, text in found.items():
            print(f"{name:16} {text}")
        return 0
    if args.json:
        args.json.mkdir(parents=True, exist_ok=True)
    for name in args.names or found:
        print(f"==> {name}", flush=True)
        more = ["--json", str((args.json / f"{name}.json").resolve())] if args.json else []
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *more], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
