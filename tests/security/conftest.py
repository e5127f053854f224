"""An authority for certificates, and a scripted DC/OS login endpoint."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_authority, _iam = _load("authority"), _load("iam")


@pytest.fixture(scope="session")
def authorities() -> Any:
    """The class Authority."""
    return _authority.Authority


@pytest.fixture
def authority(tmp_path: Path) -> Any:
    return _authority.Authority(tmp_path)


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def iam(rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[Any]:
    one = _iam.Iam(rsa_key)
    await one.listen()
    yield one
    await one.close()
