"""An authority for certificates, and a scripted DC/OS login endpoint."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.security.authority import Authority
from tests.security.iam import Iam


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def iam(rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[Iam]:
    one = Iam(rsa_key)
    await one.listen()
    yield one
    await one.close()
