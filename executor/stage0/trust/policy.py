"""What is required of an image before it may run, by the name it was asked for. Pure.

    [policy]
    default-aci = "signed"                      # rkt's default, and ours
    default-oci = "none"                        # docker and OCI images
    [policy.prefixes]
    "example.com/dev" = "none"
    "example.com" = "signed"                    # ACIs: by any key that is trusted for the name
    "registry.example/prod" = { signed-by = ["/etc/gantry/prod.pub"], identity = "repository" }
    "example.com/db" = { signed-by = ["14245e30e8d7fd0106891bac108ec72f47c002a6"] }

The longest prefix wins, compared component by component: `example.com/db` says nothing about `example.com/db2`. The
name is that of the request, never one that the image claims: what is asked for by path or URL goes by that
(`file:/srv/images`, `oci:/srv/layouts`, `https://host/dir`). Keys: OpenPGP fingerprints for ACIs, paths of PEM public
keys for docker and OCI images.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["aci", "oci"]
_FINGERPRINT = re.compile(r"[0-9a-f]{40}")
_SCHEME = re.compile(r"(file|oci|oci-archive|docker-archive):/+")


@dataclass(frozen=True)
class Requirement:
    """kind "none", or "signed": by one of `keys`; without keys by any trusted key (ACIs only).

    identity: whose name a cosign signature has to carry: "repository" (the one asked for), "any", or a repository.
    rule: where it is written, for messages. explicit: not one of the defaults.
    """

    kind: Literal["none", "signed"]
    rule: str
    keys: tuple[str, ...] = ()
    identity: str = "repository"
    explicit: bool = True

    def __str__(self) -> str:
        what = (
            "none" if self.kind == "none" else f"signed-by {', '.join(self.keys)}" if self.keys else "signed"
        )
        return f"{self.rule} = {what}"


@dataclass(frozen=True)
class Fact:
    """What was found when an image came in under one name.

    subject: the name it was asked for, as policies see it; name: what an ACI's manifest calls itself ("" for OCI);
    digest: of what was signed (an ACI's raw bytes, a manifest); signers: `openpgp:FINGERPRINT` or
    `cosign:sha256:…` (of the key); keys: sha256 of the key files that were used; policy: what was required then;
    identity: whose name a cosign signature carried, as in a Requirement.
    """

    subject: str
    name: str
    format: Format
    digest: str
    signers: tuple[str, ...]
    keys: Mapping[str, str] = field(hash=False)
    policy: str
    time: str
    identity: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject, "name": self.name, "format": self.format, "digest": self.digest,
            "signers": list(self.signers), "keys": dict(self.keys), "policy": self.policy, "time": self.time,
            "identity": self.identity,
        }  # fmt: skip

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Fact":
        """Raises KeyError or TypeError when it is something else."""
        return cls(
            obj["subject"], obj["name"], obj["format"], obj["digest"], tuple(obj["signers"]), dict(obj["keys"]),
            obj["policy"], obj["time"], obj["identity"],
        )  # fmt: skip


_DEFAULTS: dict[Format, Requirement] = {
    "aci": Requirement("signed", "policy.default-aci", explicit=False),
    "oci": Requirement("none", "policy.default-oci", explicit=False),
}


@dataclass(frozen=True)
class Policy:
    """The whole table, read once."""

    defaults: Mapping[Format, Requirement] = field(default_factory=lambda: dict(_DEFAULTS))
    prefixes: Mapping[tuple[str, ...], Requirement] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "policy") -> "Policy":
        """Raises ValueError: one line that starts with the path of the key that is wrong."""
        _known(table, {"default-aci", "default-oci", "prefixes"}, where)
        defaults = dict(_DEFAULTS)
        formats: tuple[Format, Format] = ("aci", "oci")
        for fmt in formats:
            key = f"default-{fmt}"
            if key in table:
                made = _requirement(table[key], f"{where}.{key}", explicit=False)
                if fmt == "oci" and made.kind == "signed" and not made.keys:
                    raise ValueError(
                        f'{where}.{key}: docker and OCI images need {{signed-by = ["/path/key.pub"]}}'
                    )
                defaults[fmt] = made
        prefixes: dict[tuple[str, ...], Requirement] = {}
        rules = table.get("prefixes", {})
        if not isinstance(rules, Mapping):
            raise ValueError(f"{where}.prefixes: expected a table")
        for prefix, value in rules.items():
            path = f'{where}.prefixes."{prefix}"'
            parts = components(str(prefix))
            if not parts or "" in parts:
                raise ValueError(f"{path}: not a prefix of image names, like example.com/team")
            if parts in prefixes:
                raise ValueError(f"{path}: is there twice")
            prefixes[parts] = _requirement(value, path, explicit=True)
        return cls(defaults, prefixes)

    def requirement(self, subject: str, fmt: Format) -> Requirement:
        """What the longest prefix of `subject` says, else the default of its format."""
        return self.explicit(subject) or self.defaults[fmt]

    def explicit(self, subject: str) -> Requirement | None:
        """What the longest prefix says, None when there is none."""
        parts = components(subject)
        for length in range(len(parts), 0, -1):
            if (found := self.prefixes.get(parts[:length])) is not None:
                return found
        return None


def components(name: str) -> tuple[str, ...]:
    """`example.com/a` → its parts; `file:///srv` and `file:/srv` are the same."""
    name = _SCHEME.sub(r"\1:/", name)
    head, slashes, rest = name.partition("://")
    parts = (f"{head}:", *rest.split("/")) if slashes else tuple(name.split("/"))
    while parts and parts[-1] == "":
        parts = parts[:-1]
    return parts


def covers(prefix: str, name: str) -> bool:
    """Whether `prefix` is `name` or a parent of it, by components."""
    parts = components(prefix)
    return components(name)[: len(parts)] == parts


def fingerprint(text: str) -> str:
    """A v4 OpenPGP fingerprint as files are named: 40 hex digits, lower case. ValueError."""
    plain = "".join(text.split()).lower().removeprefix("0x")
    if not _FINGERPRINT.fullmatch(plain):
        raise ValueError(f"{text!r} is not an OpenPGP fingerprint (40 hex digits)")
    return plain


def _requirement(value: object, path: str, *, explicit: bool) -> Requirement:
    if isinstance(value, str) and value in {"none", "signed"}:
        return Requirement("none" if value == "none" else "signed", path, explicit=explicit)
    if not isinstance(value, Mapping):
        raise ValueError(f'{path}: expected "none", "signed" or {{signed-by = [KEY, …]}}')
    _known(value, {"signed-by", "identity"}, path)
    keys, identity = value.get("signed-by"), value.get("identity", "repository")
    if not isinstance(keys, list) or not keys:
        raise ValueError(f"{path}.signed-by: expected a list of fingerprints or paths of PEM public keys")
    if not isinstance(identity, str) or not identity:
        raise ValueError(f'{path}.identity: expected "repository", "any" or the name of a repository')
    made = tuple(_key(key, f"{path}.signed-by[{number}]") for number, key in enumerate(keys))
    return Requirement("signed", path, made, identity, explicit)


def _key(value: object, path: str) -> str:
    if isinstance(value, str) and value.startswith("/"):
        return value
    try:
        return fingerprint(str(value))
    except ValueError as error:
        raise ValueError(f"{path}: {error}, nor the absolute path of a PEM public key") from None


def _known(table: Mapping[str, Any], keys: set[str], path: str) -> None:
    for key in table:
        if key not in keys:
            raise ValueError(f"{path}.{key}: no such key (there are: {', '.join(sorted(keys))})")
