import socket

import pytest


@pytest.fixture
def unused_listener():
    """A socket that listens on some port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener
