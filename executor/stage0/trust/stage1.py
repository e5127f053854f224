"""Which images may be a stage1: what runs with all rights of the node, so never a pod's word. Pure.

    [stage1.rkt-fly]                                   # as RuntimeClasses call it (handler)
    image = "file:///usr/lib/rkt/stage1-fly.aci"       # any name of an ACI
    digest = "sha512-…"                                # the image's id, of at least 64 digits; or, instead:
    signed-by = ["14245e30e8d7fd0106891bac108ec72f47c002a6"]    # OpenPGP, of a key that is trusted for the image's name

One of the two has to be there; both together mean both. The policy for apps' images has no say here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from executor.stage0 import names
from executor.stage0.errors import ImageUntrusted
from executor.stage0.trust.gate import Gate
from executor.stage0.trust.policy import Policy, Requirement, fingerprint

RESERVED: Final = ("linux", "fly", "kvm", "nspawn")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST: Final = re.compile(r"sha512-[0-9a-f]{64,128}")
_KEYS: Final = ("image", "digest", "signed-by")


@dataclass(frozen=True)
class Stage1Image:
    """What the administrator says about one. signed_by: fingerprints; digest: the beginning of the image's id, or
    "".
    """

    name: str
    image: str
    digest: str
    signed_by: tuple[str, ...]

    def gate(self, node: Gate) -> Gate:
        """The gate for this image alone, with the node's keys."""
        where = f"stage1.{self.name}"
        if self.signed_by:
            wanted = Requirement("signed", f"{where}.signed-by", self.signed_by)
        else:
            wanted = Requirement("none", f"{where}.digest", explicit=False)
        return Gate(Policy({"aci": wanted, "oci": Requirement("none", where, explicit=False)}), node.keystore)


def parse(tables: object) -> dict[str, Stage1Image]:
    """The `[stage1]` table. ValueError names the key."""
    if tables is None:
        return {}
    if not isinstance(tables, Mapping):
        raise ValueError("stage1: not a table")
    return {name: _image(name, table) for name, table in tables.items()}


def _image(name: str, table: Any) -> Stage1Image:
    where = f"stage1.{name}"
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{where}: not a name for a RuntimeClass' handler, or one of ours ({', '.join(RESERVED)})"
        )
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: not a table")
    for key in table:
        if key not in _KEYS:
            raise ValueError(f"{where}.{key}: unknown key")
    image, digest, signed_by = table.get("image"), table.get("digest", ""), table.get("signed-by", [])
    if not isinstance(image, str):
        raise ValueError(f"{where}.image: the name of an image is missing")
    names.parse(image)
    if digest and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise ValueError(f"{where}.digest: {digest!r} is not sha512- and 64 to 128 hexadecimal digits")
    if not isinstance(signed_by, list) or ("signed-by" in table and not signed_by):
        raise ValueError(f"{where}.signed-by: expected a list of fingerprints")
    if not digest and not signed_by:
        raise ValueError(f"{where}: needs digest or signed-by, a stage1 runs with all rights of the node")
    try:
        keys = tuple(fingerprint(str(key)) for key in signed_by)
    except ValueError as error:
        raise ValueError(f"{where}.signed-by: {error}") from None
    return Stage1Image(name, image, digest, keys)


def check_digest(asked: Stage1Image, image_id: str, digest: str) -> None:
    """ImageUntrusted when it is another image than the administrator meant."""
    if asked.digest and not image_id.startswith(asked.digest):
        raise ImageUntrusted(
            f"{asked.image}: it is {image_id[:40]}…, and stage1.{asked.name}.digest asks for {asked.digest[:40]}…"
        )
