"""ACIs signed by the real gpg, policies, trusted keys: what comes in, and what is refused, at the pull and at a run."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import ImageBroken, ImageStore, ImageUntrusted, StoreError
from executor.stage0.names import parse
from executor.stage0.settings import load
from executor.stage0.trust import Gate, Keystore, Policy
from executor.stage0.trust import openpgp as openpgp_module
from executor.stage0.trust.policy import components, covers
from executor.stage0.trust.subject import subject

pytestmark = pytest.mark.root


@pytest.fixture
def strict(state: Path, trusted: tuple[Path, Path]) -> Callable[..., ImageStore]:
    """strict(**prefixes) → a store with the default policy and these prefixes."""

    def call(prefixes: dict[str, Any] | None = None, **defaults: Any) -> ImageStore:
        table = {f"default-{k}": v for k, v in defaults.items()} | {"prefixes": prefixes or {}}
        return ImageStore(state, trust=Gate(Policy.from_table(table), Keystore(trusted)))

    return call


@pytest.fixture
def aci(tmp_path: Path, make_aci: Callable[..., Path]) -> Path:
    """An ACI called example.com/team/app."""
    return make_aci("example.com/team/app")


async def test_a_signed_aci(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path], state: Path
) -> None:
    trust("good", "example.com/team")
    keyring.sign("good", aci)
    image = await strict().pull(f"file://{aci}", "Always")
    assert image.verification.how == "signature"
    (fact,) = image.verification.facts
    assert fact.signers == (f"openpgp:{keyring.keys['good']}",)
    assert (fact.subject, fact.name, fact.policy) == (
        f"file:{aci}",
        "example.com/team/app",
        "policy.default-aci = signed",
    )
    record = json.loads((state / f"store/images/{image.id}.json").read_text())
    assert record["verification"]["facts"][0]["digest"] == fact.digest
    assert fact.digest.startswith("sha512:")


async def test_a_binary_signature_and_a_subkey(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path], gpg_home: Any
) -> None:
    mine = gpg_home("home2")
    main = mine.key("sub", algorithm="rsa2048")
    mine("--passphrase", "", "--quick-add-key", main.upper(), "rsa2048", "sign", "0")
    mine.sign("sub", aci, armor=False)
    path = trust("good", content="")
    path.with_name(main).write_text(mine.public("sub"))
    image = await strict().pull(f"file://{aci}", "Always")
    assert image.verification.facts[0].signers == (f"openpgp:{main}",)  # the primary key's, whoever signed


async def test_a_key_older_than_what_is_thought_of_sha1(
    strict: Callable[..., ImageStore], aci: Path, trust: Callable[..., Path], gpg_home: Any,
    refused: Callable[..., Awaitable[str]],
) -> None:  # fmt: skip
    """It was trusted by its fingerprint; of its subkeys only SHA-1 says that they are its own."""
    mine = gpg_home("home2")
    old = ("--cert-digest-algo", "SHA1", "--allow-weak-key-signatures")
    main = mine.key("old", *old, algorithm="rsa2048")
    mine(*old, "--passphrase", "", "--quick-add-key", main.upper(), "rsa2048", "sign", "0")
    trust("good", content="").with_name(main).write_text(mine.public("old"))
    mine.sign("old", aci)
    assert "vouches for the subkey" in await refused(f"file://{aci}", ImageUntrusted, by=strict())
    mine.keys["old"] = f"{main}!"  # not the subkey
    mine.sign("old", aci, "--digest-algo", "SHA1")
    assert "uses SHA-1, which is too weak" in await refused(f"file://{aci}", ImageUntrusted, by=strict())
    mine.sign("old", aci)
    image = await strict().pull(f"file://{aci}", "Always")
    assert image.verification.facts[0].signers == (f"openpgp:{main}",)


REFUSED: list[tuple[str, str]] = [
    (
        "unsigned",
        "it is not signed (no .asc file beside it), and policy asks for it: policy.default-aci = signed",
    ),
    ("other", "which is not trusted for it"),
    ("elsewhere", "which is not trusted for example.com/team/app"),
    ("similar", "which is not trusted for example.com/team/app"),
    ("changed", "does not fit the file"),
    ("garbage", "the signature file holds no signature"),
    ("empty", "the signature file has 0 bytes"),
    ("revoked", "is revoked"),
    ("expired", "has expired"),
    ("sha1", "uses SHA-1, which is too weak"),
    ("masked", "no key is trusted for it"),
    ("wrong-name", "is not trusted for it"),
    ("text-of-another", "does not fit the file"),
]


@pytest.mark.parametrize(("case", "words"), REFUSED, ids=[case for case, _ in REFUSED])
async def test_refused(
    case: str, words: str, strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path],
    trusted: tuple[Path, Path], refused: Callable[..., Awaitable[str]], left_behind: Callable[[], list[str]],
) -> None:  # fmt: skip
    where = {"elsewhere": "example.com/tea", "similar": "example.com/team/app2", "masked": "example.com/team"}
    key = case if case in keyring.keys else "good"
    path = trust("good" if case == "other" else key, where.get(case, "example.com"), vendor=case == "masked")
    more = {"expired": ["--faked-system-time", "20240105T000000"], "sha1": ["--digest-algo", "SHA1"]}
    if case != "unsigned":
        keyring.sign(key, aci, *more.get(case, []))
    asc = aci.with_name(f"{aci.name}.asc")
    match case:
        case "changed":
            aci.write_bytes(aci.read_bytes() + b"\0")
        case "garbage":
            asc.write_text("hello")
        case "empty":
            asc.write_text("")
        case "revoked":
            keyring.revoke("revoked")
            trust("revoked", "example.com")
        case "masked":
            trust("good", "example.com/team", content="")
        case "wrong-name":
            path.rename(path.with_name("0" * 40))
        case "text-of-another":
            other = aci.with_name("other.aci")
            other.write_bytes(b"something else")
            keyring.sign("good", other).rename(asc)
    message = await refused(f"file://{aci}", ImageUntrusted, by=strict())
    assert words in message
    assert left_behind() == []


async def test_nothing_is_parsed_before_it_is_verified(
    strict: Callable[..., ImageStore], tmp_path: Path, keyring: Any, trust: Callable[..., Path],
    refused: Callable[..., Awaitable[str]],
) -> None:  # fmt: skip
    """What is no archive at all is refused for its signature, not for its form."""
    path = tmp_path / "junk.aci"
    path.write_bytes(b"\x1f\x8bnot gzip")
    trust("good")
    keyring.sign("other", path)
    assert "not trusted" in await refused(f"file://{path}", ImageUntrusted, by=strict())
    keyring.sign("good", path)
    assert "gzip" in await refused(f"file://{path}", ImageBroken, by=strict())


async def test_a_file_that_changes_after_it_was_verified(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path],
    make_aci: Callable[..., Path], refused: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trust("good")
    keyring.sign("good", aci)
    evil = make_aci("example.com/team/app", {"evil": "x"}, file="evil.aci").read_bytes()
    verify = openpgp_module.verify

    def swapped(*arguments: Any) -> Any:
        checked = verify(*arguments)
        aci.write_bytes(evil)
        return checked

    monkeypatch.setattr(openpgp_module, "verify", swapped)
    assert "expected sha512:" in await refused(f"file://{aci}", ImageBroken, by=strict())


async def test_policies_by_prefix(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path], tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:  # fmt: skip
    ref = f"file://{aci}"
    open_directory = {f"file:{tmp_path}": "none"}
    assert (await strict(open_directory).pull(ref, "Always")).verification.how == "none"
    # The name that the image claims can only make it stricter.
    both = {**open_directory, "example.com": "signed"}
    assert "not signed as example.com/team/app" in await refused(ref, ImageUntrusted, by=strict(both))
    trust("good")
    trust("other")
    keyring.sign("good", aci)
    only = {"file:/": {"signed-by": [keyring.keys["other"].upper()]}}
    assert "not trusted for it" in await refused(ref, ImageUntrusted, by=strict(only))
    named = {"example.com/team": {"signed-by": [keyring.keys["other"]]}}
    assert "policy asks for another" in await refused(ref, ImageUntrusted, by=strict(named))
    named = {"example.com/team": {"signed-by": [keyring.keys["good"]]}}
    assert (await strict(named).pull(ref, "Always")).verification.how == "signature"


@pytest.mark.parametrize("policy", ["IfNotPresent", "Never", "Always"])
@pytest.mark.parametrize("fresh", [False, True], ids=["same-process", "new-process"])
async def test_a_key_that_is_removed_counts_at_the_next_run(
    policy: Any,
    fresh: bool,
    strict: Callable[..., ImageStore],
    aci: Path,
    keyring: Any,
    trust: Callable[..., Path],
) -> None:
    key = trust("good")
    keyring.sign("good", aci)
    ref = f"file://{aci}"
    store = strict()
    image = await store.pull(ref, "IfNotPresent")
    assert (await store.pull(ref, policy)).id == image.id
    if fresh:
        store = strict()
    key.unlink()
    with pytest.raises(ImageUntrusted, match="trusted") as caught:
        await store.pull(ref, policy)
    assert caught.value.reason == "SignatureValidationFailed"
    with pytest.raises(ImageUntrusted, match=r"not trusted for example.com/team/app any more"):
        await store.pull(image.id, policy)
    trust("good")
    assert (await store.pull(ref, policy)).id == image.id
    assert (await store.pull(image.id, policy)).id == image.id


async def test_a_replaced_key_and_a_tightened_policy(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path]
) -> None:
    key = trust("good")
    ref = f"file://{aci}"
    loose = strict({"file:/": "none"})
    image = await loose.pull(ref, "IfNotPresent")
    with pytest.raises(ImageUntrusted, match="imported without a signature, and policy asks for one now"):
        await strict().pull(ref, "Never")
    loose.trust = strict().trust  # the same process, a new policy
    with pytest.raises(ImageUntrusted, match="it is not signed"):
        await loose.pull(ref, "IfNotPresent")
    keyring.sign("good", aci)  # signed since: what is in the store is verified now
    assert (await loose.pull(ref, "IfNotPresent")).verification.how == "signature"
    key.write_text(keyring.public("good") + "\n")
    with pytest.raises(ImageUntrusted, match="was replaced since"):
        await loose.pull(image.id, "Never")
    aci.unlink()
    with pytest.raises(ImageUntrusted, match=r"replaced since .*; fetching it again failed: .*no such file"):
        await loose.pull(ref, "IfNotPresent")


async def test_docker_and_oci_default_to_none(
    strict: Callable[..., ImageStore], layout: Any, tar: Any
) -> None:
    layout.image("v1", tar().add("a").bytes())
    ref = f"oci:{layout.path}:v1"
    assert (await strict().pull(ref, "Always")).verification.facts[0].policy == "policy.default-oci = none"
    store = strict({"oci:/": {"signed-by": ["/etc/key.pub"]}})
    with pytest.raises(ImageUntrusted, match=r"never|only images of registries|without a signature"):
        await store.pull(ref, "Always")


async def test_keys_that_cannot_be_used(
    strict: Callable[..., ImageStore], aci: Path, keyring: Any, trust: Callable[..., Path],
    refused: Callable[..., Awaitable[str]],
) -> None:  # fmt: skip
    keyring.sign("good", aci)
    key = trust(
        "good", content="-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert f"key {key}: a damaged OpenPGP public key" in await refused(
        f"file://{aci}", StoreError, by=strict()
    )
    key.write_text(keyring.public("good"))
    key.chmod(0o666)
    assert "everybody may write it" in await refused(f"file://{aci}", StoreError, by=strict())


# -- pure


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"default-aic": "none"}, "policy.default-aic: no such key"),
        ({"default-aci": "maybe"}, 'policy.default-aci: expected "none", "signed" or'),
        ({"default-oci": "signed"}, "policy.default-oci: docker and OCI images need"),
        ({"prefixes": []}, "policy.prefixes: expected a table"),
        ({"prefixes": {"": "none"}}, 'policy.prefixes."": not a prefix'),
        ({"prefixes": {"a//b": "none"}}, 'policy.prefixes."a//b": not a prefix'),
        ({"prefixes": {"a": "none", "a/": "none"}}, 'policy.prefixes."a/": is there twice'),
        ({"prefixes": {"a": {"signed-by": []}}}, 'policy.prefixes."a".signed-by: expected a list'),
        ({"prefixes": {"a": {"signd-by": ["/x"]}}}, 'policy.prefixes."a".signd-by: no such key'),
        ({"prefixes": {"a": {"signed-by": ["key.pub"]}}}, 'policy.prefixes."a".signed-by[0]: \'key.pub\' is not'),
        ({"prefixes": {"a": {"signed-by": ["/x"], "identity": 3}}}, 'policy.prefixes."a".identity: expected'),
    ],
)  # fmt: skip
def test_policies_that_are_wrong(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Policy.from_table(table)
    assert str(caught.value).startswith(words)


def test_the_longest_prefix_wins_by_components() -> None:
    policy = Policy.from_table({"prefixes": {"a.com": "signed", "a.com/b": "none", "a.com/b/c": "signed"}})
    said = {
        name: policy.requirement(name, "oci").rule
        for name in ("a.com/x", "a.com/b", "a.com/b/c/d", "a.com/bc", "a.comx")
    }
    assert said == {
        "a.com/x": 'policy.prefixes."a.com"', "a.com/b": 'policy.prefixes."a.com/b"',
        "a.com/b/c/d": 'policy.prefixes."a.com/b/c"', "a.com/bc": 'policy.prefixes."a.com"',
        "a.comx": "policy.default-oci",
    }  # fmt: skip
    assert covers("file:///srv", "file:/srv/x.aci")
    assert not covers("https://h/a", "https://h/ab")
    assert components("https://h/a/") == ("https:", "h", "a")


def test_one_name_for_one_place() -> None:
    same = [
        ("quay.io/a/b:1", "QUAY.io/a/b", "quay.io:443/a/b@sha256:" + "0" * 64, "docker://quay.io/a/b"),
        (
            "nginx",
            "docker.io/library/nginx:1",
            "index.docker.io/library/nginx",
            "registry-1.docker.io/library/nginx",
        ),
        ("file:///srv/x.aci", "file:/srv/x.aci", "file:////srv//x.aci", "file:/srv/./x.aci"),
        ("https://h.example/a/x.aci", "https://H.example:443/b/../a/x.aci", "https://h.example/%61/x.aci"),
        ("appc://example.com/app:v1", "appc:example.com/app,arch=amd64"),
    ]
    for spellings in same:
        assert len({subject(parse(text)) for text in spellings}) == 1, spellings


@pytest.mark.parametrize("keys", [[], "x", ["relative"]])
def test_wrong_directories_of_keys(keys: Any) -> None:
    with pytest.raises(ValueError, match=r"f.toml: trust\.keys"):
        Gate.from_tables({}, {"keys": keys}, "f.toml")
    with pytest.raises(ValueError, match=r"trust\.kees: no such key"):
        Gate.from_tables({}, {"kees": []})


def test_status_lines_are_read_strictly() -> None:
    fingerprint = "a" * 40
    good = [
        "[GNUPG:] NEWSIG", "[GNUPG:] GOODSIG AAAA name",
        f"[GNUPG:] VALIDSIG {fingerprint.upper()} 2024-01-01 1 0 4 0 22 8 00 {fingerprint.upper()}",
    ]  # fmt: skip
    assert openpgp_module.judge(good, {fingerprint: None}) == (fingerprint,)
    for broken in (
        good[1:], good[:2], [good[0], good[2]], [*good, "[GNUPG:] BADSIG AAAA x"], [*good, "[GNUPG:] REVKEYSIG AAAA x"],
        [*good, good[2]], [line.replace("[GNUPG:] ", "") for line in good], [], ["[GNUPG:]"],
        [good[0], good[1], good[2].replace(" 22 8 ", " 22 2 ")], [good[0], good[1], good[2].replace(" 00 ", " 10 ")],
    ):  # fmt: skip
        with pytest.raises(ImageUntrusted):
            openpgp_module.judge(broken, {fingerprint: None})
    with pytest.raises(ImageUntrusted):
        openpgp_module.judge(good, {"b" * 40: None})


async def test_a_settings_file_counts_as_soon_as_it_changes(
    aci: Path, state: Path, tmp_path: Path, trusted: tuple[Path, Path]
) -> None:
    path = tmp_path / "images.toml"
    path.write_text(f'[policy.prefixes]\n"file:{tmp_path}" = "none"\n')
    store = ImageStore(state, settings=load(path))
    ref = f"file://{aci}"
    image = await store.pull(ref, "IfNotPresent")
    path.write_text(f'[trust]\nkeys = ["{trusted[0]}"]\n')
    for again, policy in ((ref, "IfNotPresent"), (ref, "Never"), (image.id, "Never")):
        with pytest.raises(ImageUntrusted, match="policy asks for"):
            await store.pull(again, policy)  # type: ignore[arg-type]
    assert store.trust.keystore.directories == (trusted[0],)
    for broken in ("[policy]\ndefault-aci = 3\n", "[policy", ""):
        path.write_text(broken) if broken else path.unlink()
        with pytest.raises(ImageUntrusted, match=r"nobody knows what policy is now|policy asks for"):
            await store.pull(ref, "IfNotPresent")
    path.write_text('[policy]\ndefault-aci = "none"\n')
    assert (await store.pull(ref, "IfNotPresent")).id == image.id
