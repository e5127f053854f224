"""`stop`, `rm`, `gc`: the ways in which pods end, and go.

gc and rm do nothing but rename and remove, under the pod's lock: whatever kills them, the next one goes on. There is
nothing else to clean up but cgroups, if a launcher was killed, and networks, if `run` was: mounts die with their
namespaces, and a pod's lock is free only when its last process is gone.
"""

# ruff: noqa: T201  (a command line prints)

import os
import time
from contextlib import suppress

from executor.network.info import RECORD
from executor.pods.poddir import Phase, PodDir
from executor.rkt import control
from executor.rkt.common import Globals, need_root, words
from executor.rkt.flags import Failure, Flags, duration
from executor.rkt.pods import STAGE1_ID, Seen, State, find, look, named, walk
from executor.rkt.show import wait_unlocked
from executor.stage1 import strays

_EMBRYO_SECONDS = 60.0
_REGISTERED = "mds-registered"  # with the metadata service; by whom that was killed
_ENDING_SECONDS = 20.0  # of a pod that does not listen (any more)
_TRIES, _PAUSE = 20, 0.05  # somebody who looks at a pod's state holds its lock for a moment


def take(pod: Seen) -> PodDir:
    """The pod's directory with its lock. FileNotFoundError when it was moved on or removed; Failure."""
    for _ in range(_TRIES):
        try:
            return PodDir(pod.root, pod.uuid, pod.phase)
        except BlockingIOError:
            time.sleep(_PAUSE)
    raise Failure(f"pod {pod.uuid}: unable to acquire exclusive lock: somebody else works on it")


def stop(g: Globals, args: list[str]) -> int:
    """`stop UUID…`: as SIGTERM to `run`; with --force everything is killed at once. Returns when it is over."""
    flags = g.flags("[flags] UUID…")
    flags.switch("force", "kill it")
    flags.text("uuid-file", "", "read the UUID from a file")
    failed = 0
    for text in named(words(flags, args), flags.values["uuid-file"], many=True):
        try:
            pod = find(g.pods, text)
            if pod.ended:
                print(f'pod "{pod.uuid}" is already stopped')
                continue
            if pod.state is not State.RUNNING:
                raise Failure(f'pod "{pod.uuid}" is not running')
            _end(pod, force=flags.is_on("force"))
            wait_unlocked(pod.path)
        except Failure as error:
            g.say(str(error))
            failed += 1
        else:
            print(f'"{pod.uuid}"')
    if failed:
        g.say(f"failed to stop {failed} pod(s)")
    return 254 if failed else 0


def _end(pod: Seen, *, force: bool) -> None:
    """Have a pod that runs end. While it begins, and when it is just ending, nobody listens. Failure."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            control.stop(pod.path, force=force)
            return
        except control.Unreachable:
            seen = look(pod.root, pod.phase, pod.uuid)
            if seen is None or not seen.locked:
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def rm(g: Globals, args: list[str]) -> int:
    """`rm UUID…`: pods that do not run, with all they have left."""
    need_root()
    flags = g.flags("[flags] UUID…")
    flags.text("uuid-file", "", "read the UUID from a file")
    failed = False
    for text in named(words(flags, args), flags.values["uuid-file"], many=True):
        try:
            pod = find(g.pods, text)
            _removable(pod)
            strays.sweep([pod.uuid])
            with suppress(FileNotFoundError):  # somebody else is removing it
                _delete(g, take(pod))
        except Failure as error:
            g.say(str(error))
            failed = True
        else:
            print(f'"{pod.uuid}"')
    if failed:
        g.say("failed to remove one or more pods")
    return 254 if failed else 0


def _removable(pod: Seen) -> None:
    if pod.state is State.RUNNING:
        raise Failure(f'pod "{pod.uuid}" is currently running')
    if pod.state is State.PREPARING or (pod.state is State.EMBRYO and pod.locked):
        raise Failure(f'pod "{pod.uuid}" is currently being prepared')
    if pod.state in {State.DELETING, State.EXITED_DELETING}:
        raise Failure(f'pod "{pod.uuid}" is currently being deleted')


def _delete(g: Globals, taken: PodDir) -> None:
    """By way of exited-garbage and garbage, so that what is half removed is never taken for a pod. Failure."""
    if taken.phase is Phase.RUN:
        taken.move(Phase.EXITED)
    if (taken.path / _REGISTERED).exists():
        from executor.rkt import metadata

        metadata.unregister(taken.path)
    if (taken.path / RECORD).exists():
        from executor.rkt import networks

        try:
            networks.release(g, taken.path)
        except Failure as error:
            os.close(taken.lock)
            raise Failure(f'unable to remove pod "{taken.name}": {error}; it stays') from None
    if (taken.path / STAGE1_ID).exists():
        from executor.rkt import foreign

        if not foreign.dispose(taken.path):
            os.close(taken.lock)
            raise Failure(f'unable to remove pod "{taken.name}": its stage1 has not collected it; it stays')
    taken.remove()
    if taken.path.exists():
        raise Failure(f'unable to remove pod "{taken.name}": see {taken.path}')


def gc(g: Globals, args: list[str]) -> int:
    """`gc`: mark what has ended, remove what was marked long enough ago."""
    need_root()
    flags = g.flags("[flags]")
    flags.text("grace-period", "30m", "how long pods that have ended are kept")
    flags.text("expire-prepared", "24h", "how long pods that were prepared are kept")
    flags.switch("mark-only", "mark, do not remove")
    words(flags, args)
    grace, expire = (_duration(flags, name) for name in ("grace-period", "expire-prepared"))
    for pod in walk(g.pods, (Phase.RUN,)):
        if pod.state is State.EXITED:
            g.say(f'moving pod "{pod.uuid}" to garbage')
            _move(g, pod, Phase.EXITED)
    for pod in walk(g.pods, (Phase.EMBRYO, Phase.PREPARE)):
        # Between an embryo's birth and its lock there is a moment.
        if not pod.locked and (pod.phase is Phase.PREPARE or _age(pod) > _EMBRYO_SECONDS):
            g.say(f'moving failed prepare "{pod.uuid}" to garbage')
            _move(g, pod, Phase.GARBAGE)
    if flags.is_on("mark-only"):
        return 0
    for pod in walk(g.pods, (Phase.PREPARED,)):
        if not pod.locked and _age(pod) > expire:
            g.say(f'moving expired prepared pod "{pod.uuid}" to garbage')
            _move(g, pod, Phase.GARBAGE)
    due = []
    for pod in walk(g.pods, (Phase.EXITED, Phase.GARBAGE)):
        if pod.phase is Phase.EXITED and _age(pod) <= grace:
            g.say(f'pod "{pod.uuid}" not removed: still within grace period ({flags.values["grace-period"]})')
            continue
        due.append(pod)
    if due:
        strays.sweep(
            [pod.uuid for pod in due]
        )  # before their directories: who is killed here leaves it to the next
    swept = [_sweep(g, pod) for pod in due]
    return 0 if all(swept) else 254


def _duration(flags: Flags, name: str) -> float:
    try:
        return duration(flags.values[name])
    except ValueError as error:
        raise Failure(f"--{name}: {error}") from None


def _age(pod: Seen) -> float:
    """Seconds since the pod came into its phase (a rename changes the ctime); -1 when it is gone."""
    try:
        return time.time() - os.lstat(pod.path).st_ctime
    except OSError:
        return -1.0


def _move(g: Globals, pod: Seen, phase: Phase) -> None:
    """What somebody else has moved meanwhile, or works on, is theirs."""
    try:
        taken = PodDir(pod.root, pod.uuid, pod.phase)
    except (FileNotFoundError, BlockingIOError):
        return
    try:
        taken.move(phase)
    except OSError as error:
        g.say(f'rename error: pod "{pod.uuid}": {error.strerror}')
    finally:
        os.close(taken.lock)


def _sweep(g: Globals, pod: Seen) -> bool:
    try:
        taken = PodDir(pod.root, pod.uuid, pod.phase)
    except (FileNotFoundError, BlockingIOError):
        return True
    print(f'Garbage collecting pod "{pod.uuid}"', flush=True)
    try:
        _delete(g, taken)
    except Failure as error:
        g.say(str(error))
        return False
    return True
