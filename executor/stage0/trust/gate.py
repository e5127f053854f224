"""The gate: nothing is imported, and nothing is run, that policy and trusted keys do not let pass.

At a pull: `raw` checks an ACI's bytes before anybody looks into them, `aci` what it turned out to be, `oci` a manifest
before its layers are fetched; each gives a `Fact` that is stored with the image. At a run: `again` compares the stored
facts with policy and keys as they are now. That costs some stats and no content.
"""

import logging
import os
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor.stage0.cas import now
from executor.stage0.errors import ImageUntrusted
from executor.stage0.streams import Reader
from executor.stage0.trust import openpgp
from executor.stage0.trust.keystore import DEFAULT_DIRECTORIES, Keystore
from executor.stage0.trust.openpgp import Checked
from executor.stage0.trust.policy import Fact, Format, Policy, Requirement

if TYPE_CHECKING:  # it brings the host's cryptography, for images that have to be signed
    from executor.stage0.trust import cosign

log = logging.getLogger(__name__)

Signatures = Callable[[str], Awaitable["list[cosign.Signature]"]]
"""manifest digest → its cosign signatures."""


class Gate:
    """Policy and trusted keys of a node. Blocking calls but `oci`; every refusal is ImageUntrusted."""

    def __init__(self, policy: Policy | None = None, keystore: Keystore | None = None) -> None:
        self._policy, self.keystore = policy or Policy(), keystore or Keystore()
        self._path: Path | None = None
        self._seen: tuple[int, ...] = ()
        self._cosign: dict[str, tuple[str, cosign.Key]] = {}

    @classmethod
    def from_tables(
        cls, policy: Mapping[str, Any] | None = None, trust: Mapping[str, Any] | None = None, where: str = ""
    ) -> "Gate":
        """From the `[policy]` and `[trust]` tables of a configuration file. ValueError names the key."""
        prefix = f"{where}: " if where else ""
        for name, table in (("policy", policy), ("trust", trust)):
            if table is not None and not isinstance(table, Mapping):
                raise ValueError(f"{prefix}{name}: expected a table")
        for key in trust or {}:
            if key != "keys":
                raise ValueError(f"{prefix}trust.{key}: no such key (there are: keys)")
        directories = (trust or {}).get("keys", [str(path) for path in DEFAULT_DIRECTORIES])
        if not isinstance(directories, list) or not all(
            isinstance(d, str) and d.startswith("/") for d in directories
        ):
            raise ValueError(
                f"{prefix}trust.keys: expected a list of absolute directories, the administrator's first"
            )
        if not directories:
            raise ValueError(f"{prefix}trust.keys: name at least one directory")
        return cls(
            Policy.from_table(policy or {}, f"{prefix}policy"), Keystore(tuple(map(Path, directories)))
        )

    def follow(self, path: Path, info: os.stat_result) -> None:
        """Take policy and directories of keys from this settings file, whenever it is not what it was when read."""
        self._path, self._seen = path, _identity(info)

    @property
    def policy(self) -> Policy:
        """As it is now. ImageUntrusted when the settings file was changed to something that is no policy."""
        if self._path is not None and (seen := _stat(self._path)) != self._seen:
            try:
                with self._path.open("rb") as file:
                    document = tomllib.load(file)
                fresh = Gate.from_tables(document.get("policy"), document.get("trust"))
            except (OSError, ValueError) as error:
                raise ImageUntrusted(f"nobody knows what policy is now: {self._path}: {error}") from None
            self._policy, self.keystore, self._seen = fresh._policy, fresh.keystore, seen
            log.info("policy and trusted keys were read again from %s", self._path)
        return self._policy

    # -- ACIs

    def raw(self, subject: str, source: Callable[[], Reader], signature: bytes | None) -> Checked | None:
        """Check an ACI's bytes as they came; None when nothing is required of `subject`. signature: the `.asc`, if any.

        An appc name is checked with the keys of that name, a path or URL with all trusted ones: there, only `aci`
        can say whether the signer may sign what the file turned out to be.
        """
        required = self.policy.requirement(subject, "aci")
        if required.kind == "none":
            return None
        keys = self.keystore.keys(subject) if _is_appc(subject) else self.keystore.all()
        fingerprints = _fingerprints(required)
        if required.keys:
            keys = {fingerprint: path for fingerprint, path in keys.items() if fingerprint in fingerprints}
        if signature is None:
            raise ImageUntrusted(
                f"it is not signed (no .asc file beside it), and policy asks for it: {required}"
            )
        if not keys:
            raise ImageUntrusted(
                f"no key is trusted for it ({required}); see `gantry image trust add` and the keys in "
                + ", ".join(map(str, self.keystore.directories))
            )
        return openpgp.verify(source(), signature, keys)

    def aci(self, subject: str, name: str, checked: Checked | None) -> Fact:
        """Whether the signers may sign an ACI of this (parsed) name, by the policies of both names."""
        required = self.policy.requirement(subject, "aci")
        wanted = self._all_required(subject, name, "aci")
        signers = checked.signers if checked else ()
        if wanted and not signers:
            raise ImageUntrusted(f"it is not signed as {name}, and policy asks for it: {wanted[-1]}")
        keys = self.keystore.keys(name)
        used = {f"openpgp:{signer}": keys[signer] for signer in signers if signer in keys}
        for rule in wanted:
            self._meets(rule, name, dict.fromkeys(used, ""), signers)
        files = {str(path): self.keystore.digest(path) for path in used.values()}
        return Fact(
            subject, name, "aci", checked.digest if checked else "", tuple(used), files, str(required), now()
        )

    def _meets(self, rule: Requirement, name: str, used: Mapping[str, str], signers: Sequence[str]) -> None:
        if not used:
            raise ImageUntrusted(f"it is signed by key {', '.join(signers)}, which is not trusted for {name}")
        if rule.keys and not any(signer.removeprefix("openpgp:") in rule.keys for signer in used):
            raise ImageUntrusted(
                f"it is signed by key {', '.join(signers)}, and policy asks for another: {rule}"
            )

    # -- docker and OCI images

    async def oci(self, subject: str, digests: Iterable[str], signatures: Signatures | None) -> Fact:
        """Whether one of the manifests (index first, then what was chosen from it) is signed as policy wants."""
        required = self.policy.requirement(subject, "oci")
        digests = list(digests)
        if required.kind == "none":
            return Fact(subject, "", "oci", digests[0], (), {}, str(required), now())
        if signatures is None:
            raise ImageUntrusted(
                f"only images of registries carry signatures, and policy asks for one: {required}"
            )
        from executor.stage0.trust import cosign

        keys = self._pem_keys(required)
        problem: ImageUntrusted | None = None
        for digest in digests:
            try:
                good = cosign.check(await signatures(digest), digest, keys, subject, required.identity)
            except ImageUntrusted as error:
                problem = problem or error
                continue
            files = {key.path: self.keystore.digest(Path(key.path)) for key in good}
            signers = tuple(dict.fromkeys(key.id for key in good))
            return Fact(subject, "", "oci", digest, signers, files, str(required), now(), required.identity)
        raise ImageUntrusted(f"{problem} (policy: {required})")

    def _pem_keys(self, required: Requirement) -> "list[cosign.Key]":
        paths = [key for key in required.keys if key.startswith("/")]
        if not paths:
            raise ImageUntrusted(f"policy names no PEM public key for docker and OCI images: {required}")
        return [self._pem_key(path) for path in paths]

    def _pem_key(self, path: str) -> "cosign.Key":
        digest = self.keystore.digest(Path(path))
        from executor.stage0.trust import cosign

        known = self._cosign.get(path)
        if known is None or known[0] != digest or not digest:
            known = (digest, cosign.load_key(path))
            self._cosign[path] = known
        return known[1]

    # -- at each run

    def again(self, subject: str, fmt: Format, facts: Iterable[Fact]) -> None:
        """Whether what is known about a stored image still satisfies the policy for `subject`."""
        facts = [fact for fact in facts if fact.format == fmt]
        mine = [fact for fact in facts if fact.subject == subject]
        required = self.policy.requirement(subject, fmt)
        if not mine:
            if required.kind == "none":
                return
            raise ImageUntrusted(
                f"it was never verified under this name, and policy asks for it now: {required}"
            )
        problems: list[str] = []
        for fact in mine:
            problem = self._outdated(fact)
            if not problem:
                return
            problems.append(problem)
        raise ImageUntrusted(problems[-1])

    def again_any(self, fmt: Format, facts: Iterable[Fact]) -> None:
        """As `again`, for an image that is asked for by its id: one of the names it came in under has to be good."""
        facts = list(facts)
        if not facts:
            self.again("", fmt, ())
            return
        problems = [self._outdated(fact) for fact in facts]
        if all(problems):
            raise ImageUntrusted(problems[0])

    def dependency(self, name: str, facts: Iterable[Fact]) -> Fact:
        """The fact on which a stored ACI may be used as the dependency `name`, however it came in."""
        problem = f"it is not {name}"
        for fact in facts:
            if fact.format != "aci" or fact.name != name:
                continue
            made = replace(fact, subject=name)
            problem = self._outdated(made)
            if not problem:
                return made
        raise ImageUntrusted(problem)

    def current(self, facts: Iterable[Fact]) -> None:
        """Whether every one of these facts (of dependencies) satisfies the policy of today."""
        for fact in facts:
            if problem := self._outdated(fact):
                raise ImageUntrusted(f"dependency {fact.name}: {problem}")

    def _outdated(self, fact: Fact) -> str:
        """Why a fact does not satisfy the policy of today, "" when it does."""
        for rule in self._all_required(fact.subject, fact.name, fact.format):
            if not fact.signers:
                return f"it was imported without a signature, and policy asks for one now: {rule}"
            problem = (
                self._aci_outdated(fact, rule) if fact.format == "aci" else self._oci_outdated(fact, rule)
            )
            if problem:
                return problem
        return ""

    def _aci_outdated(self, fact: Fact, rule: Requirement) -> str:
        trusted = self.keystore.keys(fact.name)
        fingerprints = [signer.removeprefix("openpgp:") for signer in fact.signers]
        there = [f for f in fingerprints if f in trusted]
        if not there:
            return f"it is signed by key {', '.join(fingerprints)}, which is not trusted for {fact.name} any more"
        same = [f for f in there if self.keystore.digest(trusted[f]) in fact.keys.values()]
        if not same:
            return (
                f"key {', '.join(there)} was replaced since the signature was checked; fetch the image again"
            )
        if rule.keys and not any(f in rule.keys for f in same):
            return f"it is signed by key {', '.join(same)}, and policy asks for another now: {rule}"
        return ""

    def _oci_outdated(self, fact: Fact, rule: Requirement) -> str:
        ids = {key.id for key in self._pem_keys(rule)}
        if ids.isdisjoint(fact.signers):
            return f"it is signed by {', '.join(fact.keys)}, which policy does not take any more: {rule}"
        if rule.identity not in {fact.identity, "any"}:
            return f"it was verified with identity {fact.identity}, and policy asks for {rule.identity} now: {rule}"
        return ""

    def _all_required(self, subject: str, name: str, fmt: Format) -> list[Requirement]:
        """The signed-by rules for the name that was asked for and, where one names it, for the manifest's."""
        rules = [self.policy.requirement(subject, fmt)]
        if name and name != subject and (more := self.policy.explicit(name)) is not None:
            rules.append(more)
        return [rule for rule in rules if rule.kind == "signed"]


def _stat(path: Path) -> tuple[int, ...]:
    try:
        return _identity(path.stat())
    except OSError:
        return ()


def _identity(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _is_appc(subject: str) -> bool:
    """A name, and not a path or URL: those have a scheme."""
    return bool(subject) and ":" not in subject


def _fingerprints(required: Requirement) -> set[str]:
    return {key for key in required.keys if not key.startswith("/")}
