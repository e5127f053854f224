"""Image configurations of OCI and Docker, kept and read back; what has the wrong shape is refused."""

import pytest

from executor.stage0.config import ImageConfig, diff_ids, from_oci
from executor.stage0.errors import ImageBroken

FULL = {
    "created": "2026-01-01T00:00:00Z",
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "User": "7:8", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Env": ["A=1", "B=x=y", "A=2", "EMPTY="],
        "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "Volumes": {"/data": {}}, "WorkingDir": "/w",
        "Labels": {"k": "v"}, "StopSignal": "SIGINT",
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
}  # fmt: skip


def test_everything_is_taken_over() -> None:
    config = from_oci(FULL, kind="docker")
    assert config == ImageConfig(
        entrypoint=("/bin/sh",), cmd=("-c", "true"), env={"A": "2", "B": "x=y", "EMPTY": ""}, user="7:8",
        working_dir="/w", stop_signal="SIGINT", volumes=("/data",), ports=("53/udp", "80/tcp"), labels={"k": "v"},
        os="linux", architecture="amd64", created="2026-01-01T00:00:00Z", format="docker",
    )  # fmt: skip
    assert ImageConfig.from_json(config.to_json()) == config


def test_nulls_are_absent() -> None:
    assert from_oci({"config": {"Cmd": None, "Env": None, "Labels": None, "Volumes": None}}) == ImageConfig()
    assert from_oci({}) == ImageConfig()


def test_a_relative_working_directory_starts_at_the_root() -> None:
    assert from_oci({"config": {"WorkingDir": "app"}}).working_dir == "/app"


@pytest.mark.parametrize(
    "broken",
    [
        [], "x", {"config": []}, {"config": {"Cmd": "sh"}}, {"config": {"Cmd": [1]}}, {"config": {"Env": ["=x"]}},
        {"config": {"Env": ["A=\0"]}}, {"config": {"User": 7}}, {"config": {"ExposedPorts": {"http": {}}}},
        {"config": {"Labels": {"a": 1}}}, {"config": {"Entrypoint": ["a\0b"]}}, {"os": 5},
    ],
)  # fmt: skip
def test_wrong_shapes(broken: object) -> None:
    with pytest.raises(ImageBroken, match="config"):
        from_oci(broken)


def test_diff_ids() -> None:
    assert diff_ids(FULL) == ("sha256:" + "0" * 64,)
    with pytest.raises(ImageBroken, match=r"rootfs\.type"):
        diff_ids({"rootfs": {"type": "windows"}})
