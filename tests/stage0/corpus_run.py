"""Feeds a part of the corpus to an image store, in a process of its own with bounds on time, memory and file sizes.

usage: corpus_run.py DIRECTORY KIND…    prints one JSON object a case: {"name", "started"}, then {"name", "problem"}
"""

import asyncio
import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from executor.stage0 import ImageError, ImageStore
from executor.stage0.streams import Limits
from executor.stage0.trust import Gate, Policy
from tests.stage0.corpus import cases
from tests.stage0.corpus_tars import Case, aci

SECONDS = 60
LIMITS = Limits(unpacked_bytes=8 << 20, entries=500, ratio=100, ratio_from=2 << 20)
MEMORY = 3 << 30
EMPTY_TAR = bytes(1024)


class Site:
    """A directory with a store, a place for images, and things around them that nobody may touch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.canary, self.images, self.state = root / "canary", root / "images", root / "state"
        self.cwd = self.canary / "cwd"
        self.cwd.mkdir(parents=True)
        self.state.mkdir()
        (self.images / "blobs/sha256").mkdir(parents=True)
        (self.images / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.victim = self.canary / "victim"
        self.victim.write_text("untouched")
        (self.canary / "x").write_text("x")
        (self.canary / "d").mkdir()
        os.chdir(self.cwd)
        anything = Gate(Policy.from_table({"default-aci": "none"}))
        self.store = ImageStore(self.state, limits=LIMITS, trust=anything)
        self.before = self.look()

    def look(self) -> dict[str, Any]:
        """Everything but the store and the images: what it is and what is in it."""
        found: dict[str, Any] = {"/etc/cron.d/x": os.path.lexists("/etc/cron.d/x")}
        for top in (self.root, self.canary):
            found[f"in {top.name}"] = sorted(os.listdir(top))
        for path in sorted(self.canary.rglob("*")):
            info = path.lstat()
            content = path.read_bytes().hex() if path.is_file() else ""
            found[str(path)] = [
                info.st_mode,
                info.st_uid,
                info.st_size,
                info.st_mtime_ns,
                info.st_ctime_ns,
                content,
            ]
        return found

    def left(self) -> list[str]:
        parts = ("images", "names", "tmp", "pins")
        return [str(p) for part in parts for p in (self.state / "store" / part).glob("*")]

    def blob(self, data: bytes, kind: str = "") -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.images / "blobs/sha256" / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    def put(self, case: Case) -> str:
        """Write the case where it can be pulled from; the reference."""
        if case.kind in {"aci", "aci-manifest", "docker", "oci"}:
            path = self.images / ("image.aci" if case.kind.startswith("aci") else "image.tar")
            path.write_bytes(aci(case.data) if case.kind == "aci-manifest" else case.data)
            scheme = {"docker": "docker-archive:", "oci": "oci-archive:"}.get(case.kind, "file://")
            return f"{scheme}{path}"
        layer = self.blob(case.data if case.kind in {"layer", "blob"} else EMPTY_TAR, "layer.v1.tar")
        diff_id = "sha256:" + "0" * 64 if case.kind == "blob" else layer["digest"]
        config = {"architecture": "", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
        text = case.data if case.kind == "config" else json.dumps(config).encode()
        document = {"schemaVersion": 2, "config": self.blob(text, "config.v1+json"), "layers": [layer]}
        data = case.data if case.kind in {"manifest", "index"} else json.dumps(document).encode()
        entry = self.blob(data, "index.v1+json" if case.kind == "index" else "manifest.v1+json")
        (self.images / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return f"oci:{self.images}"

    async def run(self, case: Case) -> str:
        """What is wrong with how the store took it, "" when nothing is."""
        ref = self.put(case)
        try:
            await self.store.pull(ref, "Always")
        except ImageError as error:
            problem = self._message(case, ref, str(error))
            left = self.left()
            if left and not problem and not self._known:
                problem = f"left behind: {left[:3]}"
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            problem = f"crashed: {error!r}"[:500]
        else:
            self._known = True
            problem = "" if case.may_pass else "was taken"
        if self.look() != self.before:
            problem += " SOMETHING OUTSIDE WAS CHANGED"
        return problem

    _known = False  # whether some image has been taken: then its records are there

    def _message(self, case: Case, ref: str, message: str) -> str:
        if not message.startswith(f"{ref}: ") or not message.removeprefix(f"{ref}: ").strip():
            return f"the message does not name the image: {message[:200]!r}"
        if len(message) > 1500 or not message.isprintable():
            return f"the message is not one short line: {len(message)} {message[:300]!r}"
        if case.kind in {"layer", "blob"} and "layer 1 of 1 (sha256:" not in message:
            return f"the message does not name the layer: {message[:300]!r}"
        return ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    site = Site(Path(sys.argv[1]))
    wanted = [case for case in cases(str(site.victim)) if case.kind in sys.argv[2:]]
    # Those that may be taken come last, so that nothing at all is in the store before.
    wanted.sort(key=lambda case: case.may_pass)

    async def all_of_them() -> None:
        for case in wanted:
            print(json.dumps({"name": case.name, "started": True}), flush=True)
            signal.alarm(SECONDS)  # nobody catches it: a case that hangs ends the process
            problem = await site.run(case)
            print(json.dumps({"name": case.name, "problem": problem}), flush=True)

    asyncio.run(all_of_them())


if __name__ == "__main__":
    main()
