"""Images: import beside umoci and skopeo, start by size, disk by sharing. All of one run on one machine.

import   a gzip layer in an OCI layout → a verified tree. Ours: `ImageStore.pull` in a process that runs already, as the
         executor's does, and the command `gantry image fetch`; peers: `umoci unpack`, and `skopeo copy` (docker archive
         to OCI layout) followed by `umoci unpack`. Ours is on the disk when it returns; with --sync peers' results are
         flushed as well, in their time. Each round runs every one once, in turn; per-round ratios peer : ours count.
start    a warm image's pull, sandbox and app, up to the first byte on stdout: one of many layers against a small one.
disk     what a second image on the same base adds to the store, of what the first one took.

Needs root, umoci and skopeo. The layer's files are this machine's own (/usr), so that they compress like real ones.

    python benchmarks/images.py [--rounds 5] [--layer 256] [--layers 50] [--large 2048] [--dir DIR] [--sync] [--json F]
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from executor.pods.launcher import Launcher  # the tree this file lies in
from executor.stage0.store import Image, ImageStore

MiB = 1 << 20
COMMAND = ["/bin/busybox", "echo", "x"]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
Row = dict[str, Any]


# -- images to measure with


def files_of(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names.sort()
        paths = (Path(directory, name) for name in sorted(files))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def layer_of_usr(path: Path, size: int) -> int:
    """A plain tar of so many bytes of this machine's files; the number of files."""
    left, count, seen = size, 0, set()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for root in ("/usr/lib", "/usr/share", "/usr/bin"):
            for file in files_of(Path(root)):
                info = file.stat()
                if left < info.st_size or info.st_size > 16 * MiB or info.st_ino in seen:
                    continue
                seen.add(info.st_ino)
                left -= info.st_size + 512
                count += 1
                tar.add(file, str(file).lstrip("/"), recursive=False)
            if left < MiB:
                break
    return count


class Layout:
    """An OCI layout, written plainly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._entries: list[Row] = []

    def blob(self, data: bytes, kind: str) -> Row:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    def layer(self, plain: bytes, level: int = 6) -> tuple[Row, str]:
        blob = self.blob(gzip.compress(plain, level, mtime=0), "layer.v1.tar+gzip")
        return blob, f"sha256:{hashlib.sha256(plain).hexdigest()}"

    def image(self, tag: str, layers: list[tuple[Row, str]]) -> str:
        diff_ids = [diff for _, diff in layers]
        config = {
            "architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": COMMAND},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(config).encode(), "config.v1+json"), "layers": [blob for blob, _ in layers],
        }  # fmt: skip
        entry = self.blob(json.dumps(manifest).encode(), "manifest.v1+json")
        self._entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._entries}))
        return f"oci:{self.path}:{tag}"


def small_tar(path: Path, name: str, size: int, rootfs: bool = False) -> bytes:
    """A tar with one file of noise, and busybox when it is to be run."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        noise = path.with_suffix(".noise")
        noise.write_bytes(os.urandom(size))
        tar.add(noise, name)
        if rootfs:
            for directory in ("bin", "proc", "sys", "dev", "etc", "tmp"):
                info = tarfile.TarInfo(directory)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            tar.add(str(shutil.which("busybox")), "bin/busybox")
    data = path.read_bytes()
    path.unlink()
    noise.unlink()
    return data


# -- import


def run(*argv: str | Path) -> None:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"images: error: {argv[0]}: {done.stderr.strip()[-500:]}")


def measure_import(base: Path, size: int, rounds: int, sync: bool) -> Row:
    plain = base / "plain.tar"
    files = layer_of_usr(plain, size)
    layout = Layout(base / "layout")
    ref = layout.image("v1", [layout.layer(plain.read_bytes())])
    packed = max(path.stat().st_size for path in (layout.path / "blobs/sha256").iterdir())
    plain.unlink()
    archive = base / "archive.tar"
    run("skopeo", "--insecure-policy", "copy", ref, f"docker-archive:{archive}:bench:v1")
    work = base / "work"

    def pull() -> None:
        asyncio.run(ImageStore(work).pull(ref, "Always"))

    def fetch() -> None:
        run(Path(sys.executable).with_name("gantry"), "image", "fetch", "--quiet", "--state-dir", work, ref)

    def umoci() -> None:
        run("umoci", "unpack", "--image", f"{layout.path}:v1", work)

    def skopeo() -> None:
        run("skopeo", "--insecure-policy", "copy", f"docker-archive:{archive}", f"oci:{work}-oci:v1")
        run("umoci", "unpack", "--image", f"{work}-oci:v1", work)

    contestants = {"gantry": pull, "gantry image fetch": fetch, "umoci": umoci, "skopeo + umoci": skopeo}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            seconds = _timed(contestant, base if sync and not name.startswith("gantry") else None)
            shutil.rmtree(work)
            shutil.rmtree(f"{work}-oci", ignore_errors=True)
            if number:  # the first one warms the page cache
                times[name].append(seconds)
    print(f"import of {size // MiB} MiB in {files} files, {packed // MiB} MiB packed, {rounds} rounds")
    rows = {
        name: {"median_s": statistics.median(values), "min_s": min(values)} for name, values in times.items()
    }
    for name, values in times.items():
        ratios = [other / own for other, own in zip(values, times["gantry"], strict=True)]
        rows[name] |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
        row = rows[name]
        print(f"  {name:20} median {row['median_s']:6.2f} s, min {row['min_s']:6.2f} s, {row['ratio']:5.2f} x ours "
              f"({row['ratio_min']:.2f} … {row['ratio_max']:.2f})")  # fmt: skip
    return {"bytes": size, "packed": packed, "files": files, "synced": sync, "runs": rows}


def _timed(work: Callable[[], None], flush: Path | None) -> float:
    began = time.perf_counter()
    work()
    if flush is not None:
        run("sync", "--file-system", flush)
    return time.perf_counter() - began


# -- start


async def measure_start(base: Path, layers: int, large: int, rounds: int) -> Row:
    layout = Layout(base / "layout")
    root = layout.layer(small_tar(base / "t.tar", "data", 3 * MiB, rootfs=True), 1)
    many = [root]
    many += [
        layout.layer(small_tar(base / "t.tar", f"data{number}", large // layers), 1)
        for number in range(layers - 1)
    ]
    refs = {"small": layout.image("small", [root]), "large": layout.image("large", many)}
    store = ImageStore(base / "state")
    for ref in refs.values():
        await store.pull(ref, "Always")
    launcher = await Launcher.start()
    times: dict[str, list[float]] = {name: [] for name in refs}
    try:
        for number in range(rounds + 2):
            for name, ref in refs.items():
                seconds = await _start(launcher, store, ref, base / f"{name}-{number}")
                if number >= 2:
                    times[name].append(seconds)
                await asyncio.sleep(0.02)
    finally:
        await launcher.close()
    ratios = [a / b for a, b in zip(times["large"], times["small"], strict=True)]
    row: Row = {
        name: {"median_ms": statistics.median(v) * 1e3, "min_ms": min(v) * 1e3} for name, v in times.items()
    }
    row |= {"layers": layers, "bytes": large, "ratio": statistics.median(ratios)}
    row["ratio_of_minima"] = min(times["large"]) / min(times["small"])
    text = ", ".join(f"{name} {row[name]['median_ms']:.1f} ms" for name in refs)
    print(f"start of {large // MiB} MiB in {layers} layers beside one of 5 MiB: medians {text}")
    print(f"  ratio {row['ratio']:.2f}, of minima {row['ratio_of_minima']:.2f}")
    return row


async def _start(launcher: Launcher, store: ImageStore, ref: str, pod: Path) -> float:
    """Pull, prepare, run: seconds to the first byte."""
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    byte: asyncio.Future[float] = loop.create_future()
    loop.add_reader(read_end, lambda: byte.done() or byte.set_result(time.perf_counter()))
    gone = asyncio.Event()
    began = time.perf_counter()
    image: Image = await store.pull(ref, "IfNotPresent")
    hold = store.hold(image)
    (pod / "appsinfo/app").mkdir(parents=True)
    (pod / "appsinfo/app/lower").write_text("".join(f"{layer}\n" for layer in image.layers))
    app = {"exec": COMMAND, "user": "0", "group": "0"}
    manifest = {
        "acVersion": "0.8.11", "acKind": "PodManifest",
        "apps": [{"name": "app", "image": {"id": "sha512-0"}, "app": app}],
        "annotations": [{"name": "gantry.io/flavor", "value": "linux"}],
    }  # fmt: skip
    (pod / "pod").write_text(json.dumps(manifest))
    sandbox = await launcher.run_pod(pod, lambda _: gone.set(), lambda _: gone.set())
    await sandbox.start_app("app", stdin=None, stdout=write_end, stderr=write_end)
    seconds = await asyncio.wait_for(byte, 20) - began
    loop.remove_reader(read_end)
    await asyncio.wait_for(gone.wait(), 20)
    await sandbox.stop()
    hold.close()
    os.close(read_end)
    os.close(write_end)
    shutil.rmtree(pod)
    return seconds


# -- disk


def measure_disk(base: Path, size: int) -> Row:
    layout = Layout(base / "layout")
    plain = base / "plain.tar"
    layer_of_usr(plain, size)
    common = layout.layer(plain.read_bytes(), 1)
    refs = [
        layout.image(tag, [common, layout.layer(small_tar(base / "t.tar", tag, MiB), 1)])
        for tag in ("a", "b")
    ]
    used = []
    for ref in refs:
        asyncio.run(ImageStore(base / "state").pull(ref, "Always"))
        used.append(_disk_usage(base / "state"))
    share = (used[1] - used[0]) / used[0]
    print(f"disk: the first image {used[0] / MiB:.1f} MiB, a second one on its base {share:.1%} more")
    return {"first": used[0], "second": used[1] - used[0], "share": share}


def _disk_usage(path: Path) -> int:
    done = subprocess.run(["du", "-s", "--block-size=1", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of imports; starts are ten times as many")
    parser.add_argument("--layer", type=int, default=256, help="MiB of the imported layer")
    parser.add_argument("--layers", type=int, default=50, help="of the large image")
    parser.add_argument("--large", type=int, default=2048, help="MiB of the large image")
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="imports happen here (default: %(default)s)"
    )
    parser.add_argument("--sync", action="store_true", help="flush what peers wrote, too (on a disk)")
    parser.add_argument("--only", choices=["import", "start", "disk"])
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("images: error: needs root", file=sys.stderr)
        return 2
    parts: dict[str, Callable[[Path], Row]] = {
        "import": lambda base: measure_import(base, options.layer * MiB, options.rounds, options.sync),
        "start": lambda base: asyncio.run(
            measure_start(base, options.layers, options.large * MiB, options.rounds * 10)
        ),
        "disk": lambda base: measure_disk(base, options.layer * MiB),
    }
    result: Row = {}
    for name, measure in parts.items():
        if options.only in (None, name):
            directory = options.dir if name == "import" else Path("/var/tmp")
            with tempfile.TemporaryDirectory(prefix="images-bench-", dir=directory) as base:
                result[name] = measure(Path(base))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
