"""Whatever happens to a pod, in whatever order: what must never be, and what must come in the end."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from executor.pods.core import events as ev
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.spec import Probe, ProbeKind
from executor.pods.core.states import ALIVE, ContainerState, SandboxState
from executor.pods.core.step import step

NAMES = ("a", "b", "x", "y")
ANY_EVENT = st.one_of(
    st.builds(ev.SandboxStarted),
    st.builds(ev.SandboxFailed, st.just("FailedMount"), st.just("m")),
    st.builds(ev.SandboxLost, st.just("m")),
    st.builds(ev.SandboxStopped),
    st.builds(ev.Pulling, st.sampled_from(NAMES)),
    st.builds(ev.Prepared, st.sampled_from(NAMES), st.just("i"), st.just("d"), st.none() | st.just(1.5)),
    st.builds(
        ev.PrepareFailed,
        st.sampled_from(NAMES),
        st.sampled_from(["ErrImagePull", "InvalidImageName"]),
        st.just("m"),
    ),
    st.builds(ev.Started, st.sampled_from(NAMES), st.integers(0, 3)),
    st.builds(ev.StartFailed, st.sampled_from(NAMES), st.integers(0, 3), st.just("m")),
    st.builds(ev.Exited, st.sampled_from(NAMES), st.integers(0, 3), st.sampled_from([0, 1, 137])),
    st.builds(ev.HookEnded, st.sampled_from(NAMES), st.integers(0, 3), st.sampled_from(ev.Hook)),
    st.builds(
        ev.Probed,
        st.sampled_from(NAMES),
        st.integers(0, 3),
        st.sampled_from(ProbeKind),
        st.sampled_from(ev.Answer),
    ),
    st.builds(ev.KillRequested, st.sampled_from([None, 0.0, 5.0])),
    st.builds(
        ev.TimerFired,
        st.builds(Timer, st.sampled_from(TimerKind), st.sampled_from(NAMES)),
    ),
)
POLICIES = ("Always", "OnFailure", "Never")
PROBES = st.none() | st.builds(
    Probe,
    initial_delay=st.sampled_from([0.0, 5.0]),
    success_threshold=st.just(1),
    failure_threshold=st.integers(1, 2),
    grace=st.sampled_from([None, 1.0]),
)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "post_start": st.booleans(),
        "pre_stop": st.booleans(),
        "startup": PROBES,
        "liveness": PROBES,
        "readiness": PROBES,
    },
)
SIDECAR = FACTS.map(lambda facts: {"sidecar": True, **facts})


def check_reports(world: Any) -> None:
    states = [r.state for r in world.reports]
    assert all(not r.terminal for r in world.reports[:-1])
    if "TASK_RUNNING" in states:
        assert "TASK_STARTING" not in states[states.index("TASK_RUNNING") :]
    assert world.state.over is bool(states and world.reports[-1].terminal)


def check_policy(world: Any) -> None:
    policy = world.pod.restart_policy
    for app in world.pod.apps:
        mine = [s.attempt for s in world.starts if s.app == app.name]
        assert mine == list(range(len(mine)))
        codes = world.exits.get(app.name, [])
        if app.sidecar:
            continue
        if policy == "Never":
            assert len(mine) <= 1
        if (policy == "OnFailure" and app.liveness is app.startup is None) or app.init:
            assert 0 not in codes[: max(0, len(mine) - 1)]


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY_EVENT, max_size=30), st.sampled_from(POLICIES), st.booleans())
def test_nonsense_never_breaks_the_rules(
    world: Callable[..., Any], events: list[Any], policy: str, init: bool
) -> None:
    """Events out of the blue: no exception, one terminal report and nothing after it."""
    # Apps are named so that every event of ANY_EVENT is about one of them.
    w = world("a", "b", "x", init=("y",) if init else (), policy=policy, deadline=9.0)
    state, reports = w.state, list(w.reports)
    for event in events:
        if getattr(event, "app", "") == "y" and not init:
            continue
        if isinstance(event, ev.TimerFired) and event.timer.app == "y" and not init:
            continue
        was_over = state.over
        done = step(state, event, w.now)
        assert not (was_over and done.effects)
        state = done.state
        reports += [e for e in done.effects if hasattr(e, "terminal")]
    assert sum(r.terminal for r in reports) <= 1
    assert not reports or not any(r.terminal for r in reports[:-1])


class PodMachine(RuleBasedStateMachine):
    """A world that behaves: only what can happen happens, in any order."""

    make: Callable[..., Any]

    @initialize(
        policy=st.sampled_from(POLICIES),
        inits=st.integers(0, 2),
        mains=st.integers(1, 2),
        deadline=st.sampled_from([None, 60.0]),
        facts=st.fixed_dictionaries({"a": FACTS, "b": FACTS, "x": st.just({}) | SIDECAR, "y": SIDECAR}),
    )
    def begin(self, policy: str, inits: int, mains: int, deadline: float | None, facts: Any) -> None:
        self.w = self.make(
            *"ab"[:mains], init=tuple("xy"[:inits]), policy=policy, deadline=deadline, facts=facts
        )
        self.killed = False
        self.starts_at_kill = 0

    @precondition(lambda self: self.w.making_sandbox)
    @rule(fine=st.booleans())
    def sandbox(self, fine: bool) -> None:
        self.w.send(ev.SandboxStarted() if fine else ev.SandboxFailed("FailedMount", "m"))

    @precondition(lambda self: self.w.stopping_sandbox)
    @rule()
    def stopped(self) -> None:
        assert not self.w.live
        assert not self.w.starting
        self.w.send(ev.SandboxStopped())

    @precondition(lambda self: self.w.state.sandbox is SandboxState.UP)
    @rule(often=st.integers(0, 9))
    def lost(self, often: int) -> None:
        if often == 0:
            for app in self.w.live:
                self.w.exits.setdefault(app, []).append(137)
            self.w.send(ev.SandboxLost("the launcher died"))

    @precondition(lambda self: self.w.preparing)
    @rule(data=st.data(), fine=st.booleans())
    def prepare(self, data: st.DataObject, fine: bool) -> None:
        app = data.draw(st.sampled_from(sorted(self.w.preparing)))
        if fine:
            self.w.prepared(app)
        else:
            self.w.send(ev.PrepareFailed(app, "ErrImagePull", "m"))

    @precondition(lambda self: self.w.starting)
    @rule(data=st.data(), fine=st.booleans())
    def start(self, data: st.DataObject, fine: bool) -> None:
        app = data.draw(st.sampled_from(sorted(self.w.starting)))
        if fine:
            self.w.started(app)
        else:
            self.w.exits.setdefault(app, []).append(128)
            self.w.send(ev.StartFailed(app, self.w.starting[app], "m"))

    @precondition(lambda self: self.w.live)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 137]))
    def exit(self, data: st.DataObject, code: int) -> None:
        app = data.draw(st.sampled_from(sorted(self.w.live)))
        self.w.exits.setdefault(app, []).append(code)
        self.w.exit(app, code)

    @precondition(lambda self: self.w.hooks)
    @rule(data=st.data(), error=st.sampled_from(["", "", "exit code 1"]))
    def hook(self, data: st.DataObject, error: str) -> None:
        effect = data.draw(st.sampled_from(self.w.hooks))
        self.w.hooked(effect.app, effect.hook, error)

    @precondition(lambda self: self.w.checks)
    @rule(data=st.data(), answer=st.sampled_from(ev.Answer))
    def check(self, data: st.DataObject, answer: ev.Answer) -> None:
        effect = data.draw(st.sampled_from(self.w.checks))
        self.w.probed(effect.app, effect.probe, answer)

    @precondition(lambda self: self.w.timers)
    @rule(data=st.data())
    def timer(self, data: st.DataObject) -> None:
        timer = data.draw(st.sampled_from(sorted(self.w.timers, key=repr)))
        self.w.fire(timer.kind, timer.app)

    @rule(grace=st.sampled_from([None, 0.0, 5.0]), often=st.integers(0, 4))
    def kill(self, grace: float | None, often: int) -> None:
        if often:
            return
        if not self.killed:
            self.starts_at_kill = len(self.w.starts)
        self.killed = True
        self.w.send(ev.KillRequested(grace))

    @invariant()
    def rules_hold(self) -> None:
        if not hasattr(self, "w"):
            return
        w = self.w
        check_reports(w)
        check_policy(w)
        assert w.state.illegal == 0
        if self.killed:
            assert len(w.starts) == self.starts_at_kill
        if any(s.app not in {a.name for a in w.pod.apps if a.init} for s in w.starts):
            assert w.state.initialized
        for c in w.state.containers:
            assert (c.app.name in w.live or c.app.name in w.starting) is (c.state in ALIVE)
            assert (c.app.name in w.preparing) <= (
                c.state in {ContainerState.PREPARING, ContainerState.ENDED}
            )
            if c.state is ContainerState.HELD:
                assert Timer(TimerKind.RETRY, c.app.name) in w.timers
            if c.state is ContainerState.BACKOFF:
                assert Timer(TimerKind.RETRY, c.app.name) in w.timers
            if c.state is ContainerState.LEAVING or (c.state is ContainerState.STOPPING and not c.forced):
                assert Timer(TimerKind.GRACE, c.app.name) in w.timers
            if c.state is ContainerState.RUNNING:
                kinds = [ProbeKind.LIVENESS, ProbeKind.READINESS] if c.started else [ProbeKind.STARTUP]
                for kind in kinds:
                    if c.app.probe(kind) is not None:
                        assert Timer(TimerKind(kind.value), c.app.name) in w.timers or c.checks[kind].due
        if w.state.sandbox is SandboxState.HELD:
            assert Timer(TimerKind.SANDBOX) in w.timers

    def teardown(self) -> None:
        """A kill ends every pod, once everything that was begun has been answered."""
        if not hasattr(self, "w"):
            return
        w = self.w
        w.send(ev.KillRequested(0.0))
        if w.making_sandbox:
            w.send(ev.SandboxStarted())
        for app in list(w.starting):
            w.started(app)
        for app in list(w.live):
            assert any(s.app == app and s.force for s in w.stops)
            w.exit(app, None, signal=9)
        if w.stopping_sandbox:
            w.send(ev.SandboxStopped())
        assert w.state.over
        assert w.reports[-1].terminal
        check_reports(w)


def test_every_order_of_events(world: Callable[..., Any]) -> None:
    machine = type("BoundPodMachine", (PodMachine,), {"make": staticmethod(world)})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=150, stateful_step_count=35, deadline=None)
    )
