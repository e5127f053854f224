"""Work in the network namespace of another process.

A socket belongs to the network namespace that it was made in (network_namespaces(7)), whoever uses it: so a thread that
lives for this alone goes there, does its work, and ends. Nothing of the pod is executed, nothing stays in the pod.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from executor.stage1 import syscalls

T = TypeVar("T")


def within(pid: int, work: Callable[[], T]) -> T:
    """Do something, shortly, in the network namespace of a process. Raises OSError, and what the work raises."""

    def there() -> T:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
        finally:
            os.close(fd)
        return work()

    return in_thread(there)


def in_thread(work: Callable[[], T]) -> T:
    """Do something in a thread that may go to other namespaces, for it ends then. Raises what the work raises."""
    made: list[T] = []
    trouble: list[BaseException] = []

    def there() -> None:
        try:
            made.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            trouble.append(error)

    thread = threading.Thread(target=there, name="in another network")
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return made[0]
