"""What is refused, in Mesos' words: pure. What a recording shows is compared there, not here."""

import copy

import pytest

from local.master.launches import inject_role, offers_error
from local.master.model import Offer
from local.master.validation import frameworks, ids, tasks
from local.master.validation import resources as rules
from local.wire.proto import ProtoError, parse, text
from shared.mesos.resources import Resources


def scalar(name, value, **more):
    return {"name": name, "type": "SCALAR", "scalar": {"value": value}, **more}


def ports(*ranges, **more):
    return {
        "name": "ports",
        "type": "RANGES",
        "ranges": {"range": [{"begin": b, "end": e} for b, e in ranges]},
        **more,
    }


ROLE = {"allocation_info": {"role": "r"}}
OFFERED = Resources.parse("cpus:4;mem:1024;disk:100;ports:[1000-1999]").allocate("r")


def executor(**changes):
    return {
        "executor_id": {"value": "e"},
        "framework_id": {"value": "f"},
        "type": "CUSTOM",
        "command": {"value": "true", "shell": True},
        "resources": [scalar("cpus", 0.1, **ROLE), scalar("mem", 32.0, **ROLE), scalar("disk", 1.0, **ROLE)],
        **changes,
    }


def task(**changes):
    return {
        "name": "t",
        "task_id": {"value": "t"},
        "agent_id": {"value": "a"},
        "resources": [scalar("cpus", 1.0, **ROLE), scalar("mem", 64.0, **ROLE)],
        "executor": executor(),
        **changes,
    }


def context(**changes):
    values = {
        "framework_id": "f",
        "agent_id": "a",
        "tasks": (),
        "unreachable": (),
        "executors": {},
        "offered": OFFERED,
    }
    return tasks.Context(**{**values, **changes})


def test_a_good_task():
    assert tasks.task_error(task(), context()) is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"task_id": {"value": ""}}, "ID must not be empty"),
        ({"task_id": {"value": ".."}}, "'..' is disallowed"),
        ({"task_id": {"value": "a\nb"}}, "'a\nb' contains invalid characters"),
        ({"agent_id": {"value": "b"}}, "Task uses invalid agent b while agent a is expected"),
        (
            {"kill_policy": {"grace_period": {"nanoseconds": -1}}},
            "Task's 'kill_policy.grace_period' must be non-negative",
        ),
        ({"max_completion_time": {"nanoseconds": -1}}, "Task's `max_completion_time` must be non-negative"),
        (
            {"resources": [scalar("gpus", 0.5, **ROLE)]},
            (
                "Task uses invalid resources: Invalid 'gpus' resource: "
                "The 'gpus' resource must be an unsigned integer"
            ),
        ),
        (
            {"resources": [scalar("cpus", 1, **ROLE), scalar("cpus", 1, **ROLE, revocable={})]},
            (
                "Task mixes revocable and non-revocable resources: "
                "Cannot use both revocable and non-revocable 'cpus' at the same time"
            ),
        ),
        (
            {"resources": [scalar("cpus", 1, **ROLE), scalar("mem", 1, allocation_info={"role": "s"})]},
            (
                "Invalid task resources: The resources have multiple allocation roles ('s' and 'r') "
                "but only one allocation role is allowed"
            ),
        ),
        (
            {"executor": None},
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present",
        ),
        (
            {"command": {"value": "true", "shell": True}},
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present",
        ),
        (
            {"executor": None, "command": {"value": "true", "shell": True}},
            "The embedded Mesos has no command executor: name an ExecutorInfo",
        ),
        (
            {"executor": executor(type="DEFAULT")},
            "'ExecutorInfo.command' must not be set for 'DEFAULT' executor",
        ),
        ({"executor": executor(executor_id={"value": "a/b"})}, "'a/b' contains invalid characters"),
        (
            {"executor": executor(framework_id={"value": "g"})},
            "ExecutorInfo has an invalid FrameworkID (Actual: g vs Expected: f)",
        ),
        (
            {"executor": executor(shutdown_grace_period={"nanoseconds": -1})},
            "ExecutorInfo's 'shutdown_grace_period' must be non-negative",
        ),
        (
            {
                "resources": [ports((1000, 1001), **ROLE)],
                "executor": executor(resources=[ports((1001, 1002), **ROLE)]),
            },
            (
                "There are overlapping resources in the task resources ports(allocated: r):[1000-1001]"
                " and executor resources ports(allocated: r):[1001-1002]"
            ),
        ),
        (
            {"limits": {"disk": {"value": 1.0}}},
            "Only cpus and mem may be included in a task's resource limits",
        ),
        (
            {"limits": {"cpus": {"value": 0.5}}},
            "The cpu limit must be greater than or equal to the cpu request",
        ),
    ],
)
def test_bad_tasks(changes, error):
    bad = {k: v for k, v in task(**changes).items() if v is not None}
    assert tasks.task_error(bad, context()) == error


def test_tasks_that_are_known():
    assert tasks.task_error(task(), context(tasks={"t"})) == "Task has duplicate ID: t"
    reused = "Task reuses the ID of an unreachable task: t"
    assert tasks.task_error(task(), context(unreachable={"t"})) == reused


def test_executors_count_only_when_they_are_new():
    snug = Resources.parse("cpus:1;mem:64").allocate("r")
    assert "is more than available" in (tasks.task_error(task(), context(offered=snug)) or "")
    assert tasks.task_error(task(), context(offered=snug, executors={"e": executor()})) is None


@pytest.mark.parametrize(
    "change", [{"labels": {"labels": []}}, {"shutdown_grace_period": {"nanoseconds": 1}}]
)
def test_what_may_differ_between_launches(change):
    assert tasks.task_error(task(executor=executor(**change)), context(executors={"e": executor()})) is None


def test_what_must_not_differ():
    other = executor(resources=[scalar("cpus", 0.2, **ROLE)])
    error = tasks.task_error(task(executor=other), context(executors={"e": executor()}))
    assert error is not None
    assert error.startswith(
        "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\n"
    )


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ([scalar("mem", 32, **ROLE)], "Executor 'e' uses less CPUs (None) than the minimum required (0.01)"),
        (
            [scalar("cpus", 1, **ROLE), scalar("mem", 31, **ROLE)],
            "Executor 'e' uses less memory (31) than the minimum required (32MB)",
        ),
        ([scalar("cpus", 1, **ROLE), scalar("mem", 32, **ROLE)], "Executor 'e' uses no disk"),
    ],
)
def test_groups_have_a_minimum(own, error):
    bad = executor(resources=own)
    assert tasks.group_error(bad, [task(executor=bad)], context()) == error


def test_groups():
    assert tasks.group_error(executor(), [task(), task(task_id={"value": "u"})], context()) is None
    error = tasks.group_error(executor(), [task(task_id={"value": "/"})], context())
    assert error == "Task '/' is invalid: '/' contains invalid characters"
    other = task(executor=executor(name="x"))
    error = tasks.group_error(executor(), [other], context())
    assert error == "The `ExecutorInfo` of task 't' is different from executor 'e'"


@pytest.mark.parametrize(
    ("resource", "error"),
    [
        (scalar("cpus", -1), "Invalid scalar resource: value <= 0"),
        (scalar("cpus", 0.0004), "Invalid scalar resource: value <= 0"),
        (scalar("cpus", 0), None),
        (ports((2, 1)), "Invalid ranges resource: begin > end"),
        (ports((1, 5), (5, 6)), "Invalid ranges resource: overlapping ranges"),
        ({"name": "cpus", "type": "SCALAR"}, "Invalid scalar resource"),
        ({"name": "x", "type": "TEXT"}, "Unsupported resource type"),
        (
            scalar("cpus", 1, role="a b"),
            "Role component 'a b' is invalid because it contains backspace or whitespace",
        ),
        (scalar("cpus", 1, shared={}), "Resource cpus cannot be shared"),
        (scalar("cpus", 1, disk={}), "DiskInfo should not be set for cpus resource"),
        (
            scalar("cpus", 1, reservations=[{"role": "r"}]),
            "Invalid reservation: 'Resource.ReservationInfo.type' field must be set.",
        ),
        (
            scalar(
                "cpus", 1, reservations=[{"role": "r", "type": "STATIC"}, {"role": "s", "type": "DYNAMIC"}]
            ),
            "Invalid refined reservation: role 's' is not a refinement of 'r'",
        ),
    ],
)
def test_resource_formats(resource, error):
    assert rules.format_error(resource) == error


def test_allocation_info_is_filled_in():
    operation = {"type": "LAUNCH", "launch": {"task_infos": [task(resources=[scalar("cpus", 1)])]}}
    inject_role(operation, "r")
    (only,) = operation["launch"]["task_infos"]
    assert only["resources"] == [scalar("cpus", 1, **ROLE)]


@pytest.mark.parametrize(
    ("role", "good"),
    [
        ("*", True),
        ("a/b", True),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("-a", False),
        ("a/..", False),
    ],
)
def test_roles(role, good):
    assert (ids.role_error(role) is None) is good


def info(**changes):
    framework = {"user": "root", "name": "n", "failover_timeout": 0.0, "checkpoint": False}
    multi = {"capabilities": [{"type": "MULTI_ROLE"}], "roles": ["r"]}
    return {**framework, **multi, **changes}


@pytest.mark.parametrize(
    ("framework", "error"),
    [
        (info(), None),
        (
            info(capabilities=[]),
            "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable",
        ),
        (info(roles=["r", "r"]), "'FrameworkInfo.roles' contains duplicate items: { r }"),
        (
            info(roles=["-"]),
            (
                "'FrameworkInfo.roles' contains invalid role: "
                "Role component '-' is invalid because it starts with a dash"
            ),
        ),
        (info(id={"value": "a/b"}), "'a/b' contains invalid characters"),
        (info(failover_timeout=1e300), "The framework failover_timeout (1e+300) is invalid"),
        (info(roles=["x"]), "Roles { x } are not present in the master's --roles"),
        (info(id={"value": "done"}), "Framework has been removed"),
    ],
)
def test_framework_infos(framework, error):
    assert frameworks.framework_error(framework, frozenset(("r",)), {"done"}) == error


def test_what_update_framework_may_not_change():
    assert frameworks.update_error(info(), info(name="other")) is None
    assert frameworks.update_error(info(), info(user="nobody")) == (
        "Updating 'FrameworkInfo.user' is unsupported; attempted to update from 'root' to 'nobody'"
    )
    assert frameworks.update_error(info(), info(checkpoint=True)) == (
        "Updating 'FrameworkInfo.checkpoint' is unsupported; attempted to update from 'false' to 'true'"
    )
    assert (
        frameworks.update_error(info(), info(principal="p"))
        == "Changing framework's principal is not allowed."
    )
    kept = frameworks.keep_immutable(info(), info(user="nobody", checkpoint=True, name="other"))
    assert kept == info(name="other")
    assert frameworks.options_error(info(), {"suppressed_roles": ["s"]}) == (
        "Suppressed roles { s } are not contained in the set of roles"
    )


def test_offers_that_do_not_go_together():
    def offer(name, framework="f", agent="a", role="r"):
        return Offer(name, framework, agent, role, Resources())

    known = {
        o.offer_id: o for o in (offer("1"), offer("2", role="s"), offer("3", agent="b"), offer("4", "g"))
    }
    assert offers_error([], known, "f") == "No offers specified"
    assert offers_error(["1"], known, "f") is None
    assert offers_error(["1", "1"], known, "f") == "Duplicate offer 1 in offer list"
    assert offers_error(["1", "9"], known, "f") == "Offer 9 is no longer valid"
    assert offers_error(["4"], known, "f") == "Offer 4 has invalid framework g while framework f is expected"
    assert (offers_error(["1", "2"], known, "f") or "").startswith(
        "Aggregated offers must be allocated to the same role"
    )
    assert (offers_error(["1", "3"], known, "f") or "").startswith(
        "Aggregated offers must belong to one single agent"
    )


# ---- messages


def test_unknown_fields_go_and_defaults_come():
    body = {
        "value": "x",
        "surprise": 1,
        "uris": [{"value": "u"}],
        "environment": {"variables": [{"name": "n"}]},
    }
    assert parse("CommandInfo", body) == {
        "uris": [{"value": "u", "extract": True}],
        "environment": {"variables": [{"name": "n", "type": "VALUE"}]},
        "value": "x",
        "shell": True,
    }


@pytest.mark.parametrize(
    ("message", "body", "error"),
    [
        ("TaskInfo", {}, "Missing required fields: name, task_id, agent_id"),
        (
            "TaskInfo",
            {"name": "n", "task_id": {}, "agent_id": {"value": "a"}, "resources": [{"name": "cpus"}]},
            "Missing required fields: task_id.value, resources[0].type",
        ),
        ("TaskInfo", {"name": 1}, "Not expecting a JSON number for field 'name'"),
        ("TaskInfo", {"name": None}, "Not expecting a JSON null for field 'name'"),
        ("TaskInfo", {"task_id": [1]}, "Not expecting a JSON array for field 'task_id'"),
        (
            "Filters",
            {"refuse_seconds": "x"},
            "Failed to parse 'x' as a JSON number for field 'refuse_seconds'",
        ),
        ("CommandInfo", {"shell": 1}, "Not expecting a JSON number for field 'shell'"),
    ],
)
def test_bad_messages(message, body, error):
    with pytest.raises(ProtoError) as caught:
        parse(message, body)
    assert str(caught.value) == error


def test_bytes_are_base64():
    with pytest.raises(ProtoError, match="Failed to base64 decode bytes field 'data'"):
        parse("ExecutorMessage", {"data": "not base64!"})


def test_an_unknown_enum_value_is_absent():
    assert parse("SchedulerCall", {"type": "DANCE"}) == {}
    with pytest.raises(ProtoError, match="Missing required fields: type"):
        parse("Resource", {"name": "cpus", "type": "SCALE"})


def test_debug_strings():
    obj = copy.deepcopy(executor(resources=[scalar("cpus", 0.1)], data="YQ=="))
    assert text("ExecutorInfo", obj) == (
        'executor_id {\n  value: "e"\n}\ndata: "YQ=="\nresources {\n  name: "cpus"\n  type: SCALAR\n'
        '  scalar {\n    value: 0.1\n  }\n}\ncommand {\n  value: "true"\n  shell: true\n}\n'
        'framework_id {\n  value: "f"\n}\ntype: CUSTOM\n'
    )
