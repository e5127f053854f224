"""Network configurations and plugins' answers, in every version of CNI's spec; rkt's choice among networks; ports."""

import json
from pathlib import Path
from typing import Any

import pytest

from executor.network import config, results, selection
from executor.network.errors import CniError
from executor.network.plan import plan
from executor.network.ports import Forward, forwards
from executor.network.rates import Rates

Ptp = dict[str, Any]
PTP: Ptp = {
    "name": "net1",
    "type": "ptp",
    "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
}


def network(source: str = "/d/10-x.conf", **fields: Any) -> config.Network:
    return config.parse(json.dumps({**PTP, **fields}), source)


# -- files


def test_a_conf_is_one_plugin_as_it_was_written() -> None:
    text = ' {"name": "n", "type": "ptp"}\n'
    made = config.parse(text, "/etc/rkt/net.d/10-n.conf")
    assert (made.name, made.version, made.file, made.masquerades) == ("n", "0.1.0", "10-n.conf", False)
    assert [(one.type, one.text) for one in made.plugins] == [("ptp", text)]


def test_fields_are_found_as_go_finds_them() -> None:
    made = config.parse('{"Name": "n", "Type": "ptp", "IpMasq": true}', "/n.conf")
    assert (made.name, made.plugins[0].type, made.masquerades) == ("n", "ptp", True)
    assert config.put({"Name": "a", "x": 1}, name="b") == {"x": 1, "name": "b"}


def test_a_conflist_is_several() -> None:
    steps = [PTP, {"type": "portmap", "capabilities": {"portMappings": True}}]
    made = config.parse(json.dumps({"cniVersion": "1.0.0", "name": "l", "plugins": steps}), "/l.conflist")
    assert [one.type for one in made.plugins] == ["ptp", "portmap"]
    assert [one.can("portMappings") for one in made.plugins] == [False, True]
    assert made.masquerades


def test_the_newest_of_the_versions_that_are_known() -> None:
    made = network(cniVersion="0.4.0", cniVersions=["0.3.1", "1.1.0", "9.0.0"])
    assert made.version == "1.1.0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "error loading /x.conf: Expecting property name"),
        ("[]", "not a JSON object"),
        ('{"type": "ptp"}', "name None is not letters"),
        ('{"name": "../x", "type": "ptp"}', "name '../x' is not letters"),
        ('{"name": "x"}', "type None is not the name of a plugin"),
        ('{"name": "x", "type": "../../bin/sh"}', "is not the name of a plugin"),
        ('{"name": "x", "type": "ptp", "cniVersion": "7"}', "cniVersion '7' is none of 0.1.0"),
        ('{"name": "x", "type": "ptp", "capabilities": []}', ""),
        ('{"name": "x", "type": "ptp", "capabilities": [1]}', "capabilities: not an object"),
    ],
)
def test_files_that_are_none(text: str, why: str) -> None:
    if not why:
        assert config.parse(text, "/x.conf")
        return
    with pytest.raises(CniError) as caught:
        config.parse(text, "/x.conf")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"plugins": []}, "plugins: expected a list"),
        ({"plugins": [PTP, PTP]}, "several plugins need cniVersion 0.3.0"),
    ],
)
def test_lists_that_are_none(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(CniError, match=why):
        config.parse(json.dumps({"name": "x", **fields}), "/x.conflist")


def test_a_directory_by_the_names_of_its_files(tmp_path: Path) -> None:
    assert config.directory(tmp_path / "none") == []
    for file in ("20-b.conf", "10-a.conflist", "output.json", "README"):
        steps = {"cniVersion": "0.3.1", "plugins": [PTP]} if file.endswith("list") else {"type": "ptp"}
        (tmp_path / file).write_text(json.dumps({"name": file[3], **steps}))
    (tmp_path / "30-dir.conf").mkdir()
    assert [one.name for one in config.directory(tmp_path)] == ["a", "b"]
    (tmp_path / "99.conf").write_bytes(b"\xff")
    with pytest.raises(CniError, match=r"99\.conf: not UTF-8"):
        config.directory(tmp_path)


# -- answers


def test_answers_of_the_first_versions() -> None:
    answer = {
        "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "2001:db8::5/64"},
        "dns": {"nameservers": ["10.1.0.1"], "domain": "d", "search": ["s"], "options": ["o"]},
    }
    made = results.parse(json.dumps(answer).encode())
    assert [(str(one.ip), one.gateway) for one in made.addresses] == [
        ("10.1.0.5/16", "10.1.0.1"),
        ("2001:db8::5/64", ""),
    ]
    assert made.dns.text("why") == "# why\n\nsearch s\nnameserver 10.1.0.1\noptions o\ndomain d\n"
    told = made.told("0.4.0")
    assert told["ips"][0] == {"address": "10.1.0.5/16", "version": "4", "gateway": "10.1.0.1"}
    assert told["routes"] == [{"dst": "0.0.0.0/0"}]
    assert "version" not in made.told("1.0.0")["ips"][0]
    assert results.parse(told).addresses == made.addresses


def test_answers_of_the_later_versions() -> None:
    answer = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "2001:db8::2/64", "interface": 1}, {"address": "10.1.0.5/16"}],
    }
    made = results.parse(json.dumps(answer).encode())
    assert str(made.address(4) and made.address(4).ip) == "10.1.0.5/16"  # type: ignore[union-attr]
    assert made.told("1.0.0")["ips"][0] == {"address": "2001:db8::2/64", "interface": 1}
    assert not made.dns


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        '{"cniVersion": "7"}',
        '{"ip4": {"ip": "x"}}',
        '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8", "interface": -1}]}',
        '{"cniVersion": "1.0.0", "ips": "10.0.0.1"}',
        '{"ip4": {"ip": "10.0.0.1/8"}, "dns": {"nameservers": ["1.1.1.1\\nsearch evil"]}}',
        '{"ip4": {"ip": "10.0.0.1/8"}, "dns": {"search": "x"}}',
    ],
)
def test_answers_that_are_none(answer: str) -> None:
    with pytest.raises(CniError, match="it answers with what is no result"):
        results.parse(answer.encode())


# -- rkt's choice


def test_the_words_of_net() -> None:
    assert selection.read([]) == {"default": ""}
    assert selection.read(["a,b:IP=1.2.3.4;x=y", "c"]) == {"a": "", "b": "IP=1.2.3.4;x=y", "c": ""}
    for texts, why in (
        (["a,,b"], "must not be empty"),
        (["a", "a"], "duplicate netname"),
        (["a:b:c"], "invalid arguments"),
        (["host:x=y"], "not supported by special"),
        (["none", "a"], "none stands alone"),
    ):
        with pytest.raises(ValueError, match=why):
            selection.read(texts)


def test_files_go_before_what_is_built_in_and_one_directory_before_the_other(tmp_path: Path) -> None:
    for place, name, file in (
        ("usr", "net1", "10-one.conf"),
        ("etc", "net1", "50-one.conf"),
        ("etc", "net1", "60-again.conf"),
        ("etc", "default", "00-mine.conf"),
        ("etc", "other", "20-other.conf"),
    ):
        (tmp_path / place / "net.d").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "net.d" / file).write_text(json.dumps({**PTP, "name": name}))
    said: list[str] = []
    directories = [tmp_path / "usr", tmp_path / "etc"]
    chosen = selection.choose(selection.read(["net1:IP=1,default"]), directories, said.append)
    assert [(one.name, one.file, args) for one, args in chosen] == [
        ("default", "00-mine.conf", ""),
        ("net1", "50-one.conf", "IP=1"),
    ]
    assert said == [
        f'overriding "default" network with one from {tmp_path}/etc/net.d',
        f'overriding "net1" network with one from {tmp_path}/etc/net.d',
        '"net1" network already defined, ignoring 60-again.conf',
    ]
    everything = selection.choose({"all": ""}, directories, said.append)
    assert [one.name for one, _ in everything] == ["default", "other", "net1", "default-restricted"]
    with pytest.raises(CniError, match="networks not found: nope, no"):
        selection.choose(selection.read(["nope,net1,no"]), directories, said.append)
    assert selection.places(directories)[:3] == (
        f"{tmp_path}/etc/net.d",
        f"{tmp_path}/usr/net.d",
        "/usr/lib/rkt/plugins/net",
    )


def test_what_is_built_in_is_as_rkts() -> None:
    restricted, default = selection.choose({"default": "", "default-restricted": ""}, [], lambda _: None)
    assert (restricted[0].masquerades, default[0].masquerades) == (False, True)
    assert default[0].plugins[0].conf["ipam"] == {
        "type": "host-local",
        "subnet": "172.16.28.0/24",
        "routes": [{"dst": "0.0.0.0/0"}],
    }


# -- ports


def manifest(*ports: dict[str, Any], exposed: tuple[str, ...] = ("web", "dns")) -> dict[str, Any]:
    own = {
        "web": {"name": "web", "port": 80, "protocol": "tcp"},
        "dns": {"name": "dns", "port": 53, "protocol": "udp"},
    }
    return {"apps": [{"app": {"ports": [own[name] for name in exposed]}}], "ports": list(ports)}


def test_ports_by_the_names_of_apps_ports() -> None:
    direct = {"name": "x", "hostPort": 90, "podPort": {"name": "x", "port": 9, "protocol": "tcp", "count": 2}}
    pod = manifest(
        {"name": "web", "hostPort": 8080},
        {"name": "dns", "hostPort": 8080, "hostIP": "0.0.0.0"},
        {"name": "web", "hostPort": 81, "hostIP": "127.0.0.1"},
        direct,
    )
    assert forwards(pod) == (
        Forward("tcp", 8080, 80),
        Forward("udp", 8080, 53),
        Forward("tcp", 81, 80, "127.0.0.1"),
        Forward("tcp", 90, 9),
        Forward("tcp", 91, 10),
    )


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (manifest({"name": "no", "hostPort": 1}), 'port name "no" could not be found in any apps'),
        (
            manifest({"name": "web", "hostPort": 1}, exposed=("web", "web")),
            'port name "web" defined multiple apps',
        ),
        (
            manifest({"name": "web", "hostPort": 80}, {"name": "web", "hostPort": 80, "hostIP": "127.0.0.1"}),
            "port tcp-127.0.0.1:80 already mapped to pod port 80",
        ),
    ],
)
def test_ports_that_cannot_be(pod: dict[str, Any], why: str) -> None:
    with pytest.raises(CniError) as caught:
        forwards(pod)
    assert str(caught.value) == why


# -- the plan


def test_ports_go_to_the_first_network_that_masquerades_else_to_the_last() -> None:
    plain = network("/d/00-plain.conf", name="plain", ipMasq=False)
    wanted = [(plain, ""), (network(), "IP=1"), (network(), "")]
    web = Forward("tcp", 8080, 80, "127.0.0.1")
    made = plan("id", wanted, ["/p"], [web])
    assert [[step.type for step in one.steps] for one in made.attachments] == [
        ["ptp"],
        ["ptp", "portmap"],
        ["ptp"],
    ]
    step = made.attachments[1].steps[1]
    assert step.conf["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]
    }
    assert [one.interface for one in made.attachments] == ["eth0", "eth1", "eth2"]
    assert plan("id", [(plain, ""), (plain, "")], [], [web]).attachments[1].steps[1].type == "portmap"
    with pytest.raises(CniError, match="the pod has none"):
        plan("id", [], [], [web])


def test_a_list_that_forwards_ports_itself_does_so() -> None:
    steps = [PTP, {"type": "portmap", "snat": False, "capabilities": {"portMappings": True}}]
    own = config.parse(json.dumps({"cniVersion": "0.4.0", "name": "l", "plugins": steps}), "/l.conflist")
    (made,) = plan("id", [(own, "")], [], [Forward("udp", 1, 2)]).attachments
    assert [step.type for step in made.steps] == ["ptp", "portmap"]
    assert made.steps[1].conf["snat"] is False
    assert made.steps[1].conf["runtimeConfig"]["portMappings"][0]["hostPort"] == 1


def test_limits_are_each_networks() -> None:
    steps = [PTP, {"type": "bandwidth", "capabilities": {"bandwidth": True, "portMappings": True}}]
    own = config.parse(json.dumps({"cniVersion": "0.4.0", "name": "l", "plugins": steps}), "/l.conflist")
    made = plan("id", [(network(), ""), (own, "")], [], [Forward("tcp", 1, 2)], Rates(0, 1_000_000))
    told = {"egressRate": 8_000_000, "egressBurst": 1 << 20}
    first, second = (
        [(step.type, step.conf.get("runtimeConfig")) for step in one.steps] for one in made.attachments
    )
    assert [name for name, _ in first] == ["ptp", "portmap", "bandwidth"]
    assert first[2] == ("bandwidth", {"bandwidth": told})
    assert second[1:] == [("bandwidth", {"bandwidth": told})]
    both = plan("id", [(own, "")], [], [Forward("tcp", 1, 2)], Rates(0, 1_000_000)).attachments[0].steps[1]
    assert set(both.conf["runtimeConfig"]) == {"bandwidth", "portMappings"}
    assert Rates(5, 0).under(Rates(3, 7)) == Rates(3, 7)
