"""The judge: it lets a good history pass, and none that breaks a promise."""

from dataclasses import replace
from pathlib import Path

import pytest
from harness.checker import check
from harness.history import FAIL, OK, UNKNOWN, End, Exit, Fault, History, Instance, Op, Pod, Sample, Seen

ONE = Instance(1, 100, 5000, "agent-1")
TWO = Instance(2, 200, 5000, "agent-2")
POD = Pod(1, "uid-1", 10, "Running", 0)
END = End(60.0, "", (POD,), (ONE,), 1, ("f-0 connected",), 0, {"watcher-0": {"uid-1": 10}})


def op(kind: str, number: int, at: float, outcome: str = OK, **more: object) -> Op:
    return Op("client-0", kind, number, at, at + 0.1, outcome, **more)


def ran(*steps: tuple[Instance, ...], first: float = 10.0) -> list[Sample]:
    """Samples, a second apart, the last to look before each was a tenth before it."""
    return [Sample(first + n, first + n - 0.1, live) for n, live in enumerate(steps)]


def good() -> History:
    """Pod 1 is created and runs; 2 is, and is deleted; 3 is refused; nobody knows about 4, which is not there."""
    return History(
        ops=[
            op("create", 1, 1.0),
            op("create", 2, 2.0),
            op("create", 3, 3.0, FAIL, status=409),
            op("create", 4, 3.5, UNKNOWN),
            op("delete", 2, 20.0),
        ],
        samples=ran((ONE,), (ONE, TWO), first=10.0) + ran((ONE,), first=21.0),
        seen=[Seen("watcher-0", 1.0, "list", 3), Seen("watcher-0", 2.0, "event", 10)],
        faults=[Fault(30.0, 31.0, "kill-child", "scheduler-1")],
        exits=[Exit(30.0, "scheduler-1", 6), Exit(31.0, "zookeeper-2", 10)],
        end=END,
    )


def wrong(history: History, *said: str) -> None:
    """Exactly these complaints, in part."""
    found = check(history)
    assert len(found) == len(said), found
    for part in said:
        assert any(part in line for line in found), found


def ending(history: History, **changes: object) -> History:
    assert history.end is not None
    history.end = replace(history.end, **changes)
    return history


def test_a_good_history_passes() -> None:
    assert check(good()) == []


def test_a_history_is_saved_and_read_again(tmp_path: Path) -> None:
    history = good()
    history.save(tmp_path / "history")
    assert History.load(tmp_path / "history") == history


def test_a_run_without_an_end() -> None:
    history = good()
    history.end = None
    wrong(history, "did not come to its end")


def test_what_never_came_to_rest() -> None:
    wrong(ending(good(), missing="2 nodes"), "never came to rest: 2 nodes")


# ---- writes


def without_pods(history: History) -> History:
    """In the end there is none, nowhere; the one that ran was ended with its agent."""
    history.samples += ran((), first=40.0)
    history.faults.append(Fault(39.0, 40.0, "kill-executor", "agent-1", ("agent-1",)))
    return ending(history, pods=(), live=(), tasks=0, watchers={"watcher-0": {}})


def test_an_acknowledged_pod_is_lost() -> None:
    wrong(without_pods(good()), "pod 1 was acknowledged at 1.10 and is lost")


@pytest.mark.parametrize("outcome", [OK, UNKNOWN])
def test_a_pod_whose_deletion_was_tried_may_be_gone(outcome: str) -> None:
    history = without_pods(good())
    history.ops.append(op("delete", 1, 35.0, outcome))
    assert check(history) == []


def test_a_refused_deletion_deletes_nothing() -> None:
    history = without_pods(good())
    history.ops.append(op("delete", 1, 35.0, FAIL))
    wrong(history, "pod 1 was acknowledged at 1.10 and is lost")


def with_pod(number: int) -> History:
    """It is there as well, and runs."""
    history = good()
    other = Instance(number, 300, 6000, "agent-2")
    history.samples += ran((ONE, other), first=40.0)
    pods = (POD, Pod(number, "uid-x", 12, "Running", 0))
    both = {"uid-1": 10, "uid-x": 12}
    return ending(history, pods=pods, live=(ONE, other), tasks=2, watchers={"watcher-0": both})


def test_a_refused_pod_is_there() -> None:
    wrong(with_pod(3), "pod 3 was refused (409 ) and is there", "pod 3 was refused and has run")


def test_a_pod_of_unknown_fate_may_be_there() -> None:
    assert check(with_pod(4)) == []


def test_a_deleted_pod_is_there() -> None:
    wrong(with_pod(2), "pod 2 was deleted, which was acknowledged, and is there")


def test_nobody_created_it() -> None:
    wrong(with_pod(7), "pod 7 is there and nobody created it")


@pytest.mark.parametrize("kind", ["label", "delete"])
def test_a_client_is_told_that_what_was_acknowledged_is_not_there(kind: str) -> None:
    history = good()
    history.ops.append(op(kind, 1, 30.0, FAIL, status=404, detail="not found"))
    wrong(history, f"{kind} of pod 1 at 30.00 was told 404")


def test_what_may_be_deleted_may_not_be_found() -> None:
    history = good()
    history.ops.append(op("label", 2, 25.0, FAIL, status=404))
    assert check(history) == []


def test_a_bug_of_the_servers() -> None:
    history = good()
    history.ops.append(op("label", 1, 25.0, UNKNOWN, value=3, status=500, detail="oops"))
    wrong(history, "answered with 500: oops")


@pytest.mark.parametrize(
    ("last", "passes"), [(5, True), (6, True), (4, False), (0, False), (7, False)], ids=str
)
def test_a_label_has_the_last_acknowledged_value_or_one_of_unknown_fate(last: int, passes: bool) -> None:
    history = ending(good(), pods=(replace(POD, label=last),))
    for value, outcome in ((4, OK), (5, OK), (6, UNKNOWN), (7, FAIL)):
        history.ops.append(op("label", 1, 20.0 + value, outcome, value=value))
    assert (check(history) == []) is passes


def labelled() -> History:
    """Pod 1 got label 5, which was acknowledged with version 12, after two watchers had seen version 10."""
    history = ending(
        good(),
        pods=(replace(POD, label=5, version=12),),
        watchers={"watcher-0": {"uid-1": 12}, "watcher-1": {"uid-1": 12}},
    )
    history.ops.append(op("label", 1, 25.0, value=5, version=12))
    history.seen.append(Seen("watcher-1", 3.0, "list", 10))
    return history


def seen(watcher: str, version: int, label: int = 5, **more: object) -> Seen:
    return Seen(watcher, 26.0, "event", version, number=1, label=label, **more)


def test_all_see_what_was_acknowledged() -> None:
    history = labelled()
    history.seen += [seen("watcher-0", 12), seen("watcher-1", 12)]
    assert check(history) == []


def test_an_acknowledged_version_is_seen_by_one_only() -> None:
    history = labelled()
    history.seen += [seen("watcher-0", 12), seen("watcher-1", 13)]
    wrong(history, "label of pod 1, acknowledged with version 12, was not seen by watcher-1")


def test_what_a_list_is_newer_than_need_not_be_seen() -> None:
    history = labelled()
    history.seen += [seen("watcher-0", 12), Seen("watcher-1", 26.0, "list", 13), seen("watcher-1", 14)]
    assert check(history) == []


def test_an_update_is_overwritten_by_what_was_there() -> None:
    history = labelled()
    history.seen += [seen("watcher-0", 12, 4), seen("watcher-1", 12, 4)]
    wrong(history, *("acknowledged with version 12 and value 5, was seen by watcher-" + one for one in "01"))


def test_watchers_see_two_things_at_one_version() -> None:
    history = labelled()
    history.seen += [
        seen("watcher-0", 12),
        seen("watcher-0", 13),
        seen("watcher-1", 12),
        seen("watcher-1", 13, gone=True),
    ]
    wrong(history, "version 13 is two things")


# ---- processes


def test_a_pod_runs_twice_for_a_moment() -> None:
    history = good()
    again = replace(ONE, pid=101)
    history.samples += ran((ONE, again), (ONE,), first=40.0)
    wrong(history, "pod 1 ran twice", "pod 1 was ended on agent-1 before 41.00 (pid 101)")


def test_a_pod_runs_twice_on_another_agent() -> None:
    history = good()
    other = replace(ONE, agent="agent-2", pid=7)
    history.samples += ran((ONE, other), first=40.0)
    wrong(ending(history, live=(ONE, other)), "pod 1 ran twice", "pod 1 is there and runs 2 times")


def test_a_failover_restarts_a_pod() -> None:
    history = good()
    again = replace(ONE, pid=101, started=6000)
    history.samples += ran((again,), first=31.0)
    wrong(ending(history, live=(again,)), "pod 1 was ended on agent-1 before 31.00 (pid 100)")


def test_a_pid_that_is_taken_again_is_another_process() -> None:
    history = good()
    again = replace(ONE, started=6000)
    history.samples += ran((again,), first=31.0)
    wrong(ending(history, live=(again,)), "pod 1 was ended on agent-1 before 31.00 (pid 100)")


@pytest.mark.parametrize(
    ("victim", "at", "passes"), [("agent-1", 30.5, True), ("agent-2", 30.5, False), ("agent-1", 45.0, False)]
)
def test_the_death_of_its_own_executor_restarts_a_pod(victim: str, at: float, passes: bool) -> None:
    history = good()
    history.faults.append(Fault(at, at, "kill-executor", victim, (victim,)))
    again = replace(ONE, pid=101, started=6000)
    history.samples += ran((), (again,), first=31.0)
    assert (check(ending(history, live=(again,))) == []) is passes


def test_a_pod_runs_no_more() -> None:
    wrong(ending(good(), live=()), "pod 1 is there and runs 0 times")


def test_a_deleted_pod_runs_on() -> None:
    history = good()
    history.samples += ran((ONE, TWO), first=40.0)
    wrong(ending(history, live=(ONE, TWO)), "pod 2 runs and is not there")


def test_a_pod_is_not_running() -> None:
    wrong(ending(good(), pods=(replace(POD, phase="Pending"),)), "pod 1 is Pending")


# ---- the rest


@pytest.mark.parametrize("version", [9, 10])
def test_a_watcher_goes_back(version: int) -> None:
    history = good()
    history.seen.append(Seen("watcher-0", 5.0, "event", version))
    wrong(history, f"watcher-0 got event {version} after 10")


def test_a_list_may_be_of_the_version_that_was_seen_and_no_older() -> None:
    history = good()
    history.seen.append(Seen("watcher-0", 5.0, "list", 10))
    assert check(history) == []
    history.seen.append(Seen("watcher-0", 6.0, "list", 9))
    wrong(history, "watcher-0 got list 9 after 10")


def test_a_list_that_warned_may_be_old() -> None:
    history = good()
    history.seen.append(Seen("watcher-0", 6.0, "list", 9, doubtful=True))
    assert check(history) == []


def test_a_watcher_missed_something() -> None:
    wrong(ending(good(), watchers={"watcher-0": {"uid-1": 9}}), "put together something else")


@pytest.mark.parametrize("known", [("f-0 connected", "f-1 connected"), ("f-0 gone",), ()])
def test_ghosts(known: tuple[str, ...]) -> None:
    wrong(ending(good(), frameworks=known), "the master knows other frameworks")


def test_offers_and_tasks_that_are_left() -> None:
    wrong(ending(good(), offers=2, tasks=3), "2 offers", "3 tasks for 1 pods")


@pytest.mark.parametrize(("process", "code"), [("scheduler-1", 1), ("master", 0), ("agent-1", 1)])
def test_a_process_ends_by_itself(process: str, code: int) -> None:
    history = good()
    history.exits.append(Exit(40.0, process, code))
    wrong(history, f"{process} ended with {code}")


def test_a_log_complains() -> None:
    wrong(ending(good(), complaints=("logs/x.log: Traceback",)), "Traceback")
