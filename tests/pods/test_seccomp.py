"""Which seccomp isolator a container asks for."""

import json
from pathlib import Path
from typing import Any

import pytest

from executor.pods.env import ConfigError
from executor.pods.seccomp import isolator

DEFAULT = [{"name": "os/linux/seccomp-remove-set", "value": {"set": ["@appc.io/empty"]}}]
NONE = [{"name": "os/linux/seccomp-retain-set", "value": {"set": ["@appc.io/all"]}}]


def asked(kind: str | None, **more: Any) -> dict[str, Any]:
    return {} if kind is None else {"securityContext": {"seccompProfile": {"type": kind, **more}}}


@pytest.mark.parametrize(
    ("own", "pod", "expected"),
    [
        (None, None, []),
        ("RuntimeDefault", None, DEFAULT),
        (None, "RuntimeDefault", DEFAULT),
        ("Unconfined", "RuntimeDefault", NONE),
        ("RuntimeDefault", "Unconfined", DEFAULT),
    ],
)
def test_the_container_goes_before_the_pod(own: str | None, pod: str | None, expected: list[Any]) -> None:
    assert isolator(asked(own), asked(pod), Path("/nowhere")) == expected


def test_a_profile_of_the_machine(tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "strict.json").write_text(json.dumps(profile))
    made = isolator(asked("Localhost", localhostProfile="profiles/strict.json"), {}, tmp_path)
    assert made == [{"name": "gantry.io/seccomp-profile", "value": profile}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.json", "No such file"),
        ("../secret.json", "leads out of"),
        ("link.json", "leads out of"),
        ("text.json", "not JSON"),
        ("odd.json", "action 'SCMP_ACT_MAYBE'"),
    ],
)
def test_what_is_wrong_with_it_is_named(tmp_path: Path, name: str, message: str) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (profiles / "link.json").symlink_to(tmp_path / "secret.json")
    (profiles / "text.json").write_text("defaultAction: no")
    (profiles / "odd.json").write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
    with pytest.raises(ConfigError, match=message) as caught:
        isolator(asked("Localhost", localhostProfile=name), {}, profiles)
    assert name in str(caught.value)
