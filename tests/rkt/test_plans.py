"""`run --print-plan`: what would be done for a pod is printed, and nothing done."""

import pytest

pytestmark = pytest.mark.root


def pods(rkt):
    return sorted(path.name for path in (rkt.data / "pods").glob("*/*"))


def test_the_plan_of_a_pod_that_would_run(box):
    volume = ("--volume=v,kind=empty,readOnly=true", "--mount=volume=v,target=/v")
    done = box.good(
        "run", "--print-plan", "--net=none", "--hostname=h", *volume, "example.com/box", "--exec=/nope"
    )
    assert done.lines[0].startswith(f"pod directory {box.data}/pods/run/")
    assert any(line.endswith(" set the hostname h") for line in done.lines)
    assert any("mount volume:/v on /v" in line for line in done.lines)
    assert "  process: run /nope as 0:0 in /" in done.lines
    assert pods(box) == []


def test_the_plan_of_a_prepared_pod(box):
    uuid = box.good("prepare", "--quiet", "example.com/box", "--exec=/bin/echo", "--", "later").lines[-1]
    plan = box.good("run-prepared", "--print-plan", "--net=none", uuid).lines
    assert plan[0] == f"pod directory {box.data}/pods/run/{uuid}"
    assert "  process: run /bin/echo later as 0:0 in /" in plan
    assert pods(box) == [uuid]
    assert box.good("run-prepared", "--net=none", uuid).out == "later\n"


def test_the_plan_of_a_virtual_machine(box):
    done = box.good("run", "--print-plan", "--net=none", "--stage1-name=kvm", "example.com/box")
    assert done.out.startswith("the machine: 640 MiB of memory")
    assert pods(box) == []
