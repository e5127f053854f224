"""Which starters wait for the next start, and which have waited for too long."""

import socket

from executor.stage1.starters import Child, Waiting


def make(count: int) -> list[Child]:
    """Of processes that there are not."""
    return [Child(1 << 22 | number, socket.socket(fileno=None), lasts=True) for number in range(count)]


def test_the_one_that_has_waited_for_the_shortest_time_is_next() -> None:
    waiting = Waiting(1, 5.0)
    first, second, third = children = make(3)
    for number, child in enumerate(children):
        waiting.add(child, float(number))
    assert list(waiting) == children
    assert waiting.take() == third
    assert waiting.discard(first)
    assert not waiting.discard(first)
    assert waiting.take() == second
    assert waiting.take() is None
    assert not waiting
    for child in children:
        child.socket.close()


def test_only_who_is_not_used_goes() -> None:
    """However many starts there are: those that take turns stay, and a few do anyway."""
    waiting = Waiting(1, 5.0)
    children = make(4)
    for child in children:
        waiting.add(child, 0.0)
    for now in range(10):
        used = [waiting.take(), waiting.take()]
        for child in filter(None, used):
            waiting.add(child, now + 0.5)
        assert waiting.expire(now + 0.5)[0] == (children[:2] if now == 5 else [])
    assert len(waiting) == 2
    assert waiting.expire(10.5) == ([], 4.0)  # since 9.5
    gone, again = waiting.expire(14.5)
    assert (len(gone), again) == (1, None)
    assert len(waiting) == 1
    for child in children:
        child.socket.close()
