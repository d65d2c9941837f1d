"""vagrant/: the description holds together, overrides do what README.md says, and Vagrant itself takes the Vagrantfile."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from kpx.cluster.events import Upsert
from kpx.settings.config import SETTINGS
from kpx.sources.manifests import read_directory
from vagrant import probes
from vagrant.topology import Topology, client_routes, manifests, settings, write_manifests

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "vagrant"
MACHINES = ("lb1", "lb2", "web1", "web2", "client")
FOR_ALL = {"KPX_BOX", "KPX_NETWORK", "KPX_MEMORY_MB", "KPX_CPUS", "KPX_PROXY_MODE"}
FOR_ONE = {"ADDRESS", "MEMORY_MB", "CPUS"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return yaml.safe_load((LAB / "topology.yaml").read_text())


@pytest.fixture(scope="module")
def topology(description: dict[str, Any]) -> Topology:
    return Topology.of(description)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with nothing but vagrant/ in it, and none of the overrides of whoever runs the tests."""
    kept = shutil.ignore_patterns("topology.local.yaml", ".vagrant", "__pycache__")
    shutil.copytree(LAB, tmp_path / "checkout/vagrant", ignore=kept)
    return tmp_path / "checkout"


def go_without(complaint: str) -> NoReturn:
    """Skip on a machine of one's own; in continuous integration everything must be there, and what is not is a failure."""
    if os.environ.get("CI"):
        pytest.fail(complaint)
    pytest.skip(complaint)


def require(program: str, package: str) -> None:
    """Do without a test if a program is missing."""
    if shutil.which(program) is None:
        go_without(f"{program} is not installed: apt-get install {package}")


def run(checkout: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Ruby or Vagrant on a checkout, without the settings of whoever runs the tests."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("KPX_", "VAGRANT_"))}
    own = {"VAGRANT_HOME": str(checkout / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1", "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=checkout / "vagrant", env={**inherited, **own, **variables},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def resolved(checkout: Path, **variables: str) -> dict[str, Any]:
    """What the virtual machines are told."""
    require("ruby", "ruby")
    done = run(checkout, "ruby", "topology.rb", **variables)
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


def test_every_machine_has_an_address_of_its_own_in_the_network(topology: Topology) -> None:
    addresses = [ipaddress.ip_address(machine.address) for machine in topology.machines]
    hosts = list(topology.network.hosts())

    assert MACHINES == tuple(machine.name for machine in topology.machines)
    assert {"lb": 2, "web": 2, "client": 1} == {role: len(topology.having(role)) for role in ("lb", "web", "client")}
    assert len(set(addresses)) == len(addresses)
    assert set(addresses) <= set(hosts[1:]), "the first one is the host's own"


def test_addresses_of_services_are_apart_from_machines_and_each_reached_through_a_load_balancer(topology: Topology) -> None:
    services = {name: ipaddress.ip_address(address) for name, address in topology.addresses.items()}
    service_range = ipaddress.ip_network(topology.service_range)

    assert len(set(services.values())) == len(services)
    assert [] == [name for name, address in services.items() if address in topology.network]
    assert {name for name, address in services.items() if address not in service_range} == {
        name for name in topology.routes if name != "service_range"
    }
    assert {"lb1", "lb2"} == set(topology.routes.values())
    assert len(client_routes(topology)) == len(topology.routes)


def test_manifests_are_understood_without_a_complaint(topology: Topology, tmp_path: Path) -> None:
    write_manifests(topology, tmp_path)
    read = read_directory(str(tmp_path))

    assert [] == list(read.findings)
    assert {"Service": 3, "EndpointSlice": 2, "Node": 2, "ServiceCIDR": 1} == Counter(
        type(event.object).__name__ for event in read.events if isinstance(event, Upsert)
    )


def test_manifests_name_no_address_that_the_description_does_not(topology: Topology) -> None:
    """An address written out in a manifest would not move along when the user overrides it."""
    written = re.compile(r"\b\d+\.\d+\.\d+\.\d+\b")

    assert [] == [path.name for path in (LAB / "manifests").iterdir() if written.search(path.read_text())]
    assert all(text.count("${") == 0 for text in manifests(topology).values())


def test_manifests_that_are_as_they_must_be_are_not_written_again(topology: Topology, tmp_path: Path) -> None:
    write_manifests(topology, tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    (tmp_path / "idle.yaml").write_text("")
    write_manifests(topology, tmp_path)
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}

    assert {"idle.yaml"} == {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()


def test_agents_are_told_settings_that_exist(topology: Topology) -> None:
    told = settings(topology, "lb2")

    assert told.keys() <= {setting.variable for setting in SETTINGS}
    assert told["KPX_BIND_ADDRESS"] == topology.named("lb2").address
    assert told["KPX_MASQUERADE_ALL"] == "true"


def test_every_service_is_asked_through_every_load_balancer(topology: Topology) -> None:
    asked = list(probes.probes(topology))
    answered = [probe for probe in asked if probe.expected == probes.ANSWERED]

    assert set(topology.addresses.values()) <= {probe.address for probe in asked}
    assert {(machine.address, protocol) for machine in topology.having("lb") for protocol in ("tcp", "udp")} == {
        (probe.seen, probe.protocol) for probe in answered
    }
    assert {probes.REFUSED, probes.NOTHING} == {probe.expected for probe in asked} - {probes.ANSWERED}


def test_virtual_machines_and_namespaces_are_told_the_same(checkout: Path, topology: Topology) -> None:
    """Ruby and Python make the same lab of topology.yaml."""
    assert topology == Topology.of(resolved(checkout))


def test_variables_win_over_the_local_file_and_that_over_the_description(checkout: Path) -> None:
    local = {"memory_mb": 700, "cpus": 2, "machines": {"lb1": {"address": "10.9.0.100", "cpus": 3}}}
    (checkout / "vagrant/topology.local.yaml").write_text(yaml.safe_dump(local))
    found = resolved(checkout, KPX_NETWORK="10.9.0.1/16", KPX_CPUS="4", KPX_WEB2_MEMORY_MB="900", KPX_PROXY_MODE="nftables")
    machines = found["machines"]

    assert machines["lb1"] == {"role": "lb", "address": "10.9.0.100", "memory_mb": 700, "cpus": 3}
    assert machines["web2"] == {"role": "web", "address": "10.9.0.22", "memory_mb": 900, "cpus": 4}
    assert found["agent"]["proxy_mode"] == "nftables"
    assert Topology.of(found).named("web1").address == "10.9.0.21"


def test_each_variable_sets_what_it_says(checkout: Path) -> None:
    """All at once, each to a value of its own."""
    addresses = {name: f"10.7.0.{number}" for number, name in enumerate(MACHINES, 50)}
    memory = {name: 1000 + number for number, name in enumerate(MACHINES)}
    cpus = dict(zip(MACHINES, range(2, 7), strict=True))
    variables = {f"KPX_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    variables |= {f"KPX_{name.upper()}_MEMORY_MB": str(value) for name, value in memory.items()}
    variables |= {f"KPX_{name.upper()}_CPUS": str(value) for name, value in cpus.items()}
    for_all = {"KPX_BOX": "own/box", "KPX_NETWORK": "10.7.0.0/24", "KPX_MEMORY_MB": "600", "KPX_CPUS": "9"}
    for_all["KPX_PROXY_MODE"] = "ipvs"
    found = resolved(checkout, **variables, **for_all)

    assert FOR_ALL == for_all.keys()
    assert FOR_ONE == {variable.partition("_LB1_")[2] for variable in variables if "_LB1_" in variable}
    assert list(for_all.values()) == [
        found["box"], found["network"], found["memory_mb"], found["cpus"], found["agent"]["proxy_mode"]
    ]  # fmt: skip
    assert [addresses, memory, cpus] == [
        {name: machine[key] for name, machine in found["machines"].items()} for key in ("address", "memory_mb", "cpus")
    ]


def test_readme_lists_the_variables() -> None:
    listed = re.findall(r"`(KPX_\w+)`", "".join(re.findall(r"^\|.*", (LAB / "README.md").read_text(), re.MULTILINE)))

    assert sorted(FOR_ALL | {f"KPX_LB1_{key}" for key in FOR_ONE}) == sorted(listed)


def test_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (LAB / "README.md").read_text())

    assert targets
    assert [] == [target for target in targets if not (LAB / target).exists()]


@pytest.mark.parametrize(
    ("variables", "local", "complaint"),
    [
        ({"KPX_LB1_ADDRESS": "192.168.56.12"}, "", "lb1 and lb2 have the same address 192.168.56.12"),
        ({"KPX_LB1_ADDRESS": "10.0.0.1"}, "", "lb1: 10.0.0.1 is not a machine's address in 192.168.56.0/24"),
        ({"KPX_LB1_ADDRESS": "192.168.56.1"}, "", "the first one is the host's own"),
        ({"KPX_LB1_ADDRESS": "lb1"}, "", 'lb1: "lb1" is no IPv4 address; give one such as 192.168.56.11'),
        ({"KPX_NETWORK": "10.7.0.0/28"}, "", "web1: 10.7.0.21 is not a machine's address in 10.7.0.0/28"),
        ({"KPX_NETWORK": "10.7.0.0"}, "", 'network: "10.7.0.0" is no IPv4 range'),
        ({"KPX_NETWORK": "2001:db8::/64"}, "", 'network: "2001:db8::/64" is no IPv4 range'),
        ({"KPX_MEMORY_MB": "1G"}, "", 'lb1: memory_mb: "1G" must be a whole number above 0'),
        ({"KPX_WEB1_CPUS": "0"}, "", 'web1: cpus: "0" must be a whole number above 0'),
        ({}, "machines: {lb1: {number: ten}}", 'lb1: number: "ten" must be a whole number above 0'),
        ({}, "machines: {lb3: {cpus: 1}}", "topology.local.yaml: machines.lb3 means nothing here; known are lb1, lb2"),
        ({}, "machines: {lb1: {cpu: 1}}", "topology.local.yaml: machines.lb1.cpu means nothing here"),
        ({}, "machines: [lb1]", "topology.local.yaml: machines must be a mapping"),
        ({}, "box: {name: debian}", "topology.local.yaml: box must be a single value"),
        ({}, "- box", "topology.local.yaml: must be a mapping, like topology.yaml"),
        ({}, "box: [", "topology.local.yaml: no YAML: "),
        ({}, "addresses: {tomcat: nobody}", 'addresses: tomcat: "nobody" is no IPv4 address'),
        ({}, "service_range: 10.96.0.0", 'service_range: "10.96.0.0" is no IPv4 range'),
        ({}, "routes: {service_range: web1}", "routes: service_range: web1 is none of lb1, lb2"),
    ],
    ids=str,
)
def test_an_override_that_cannot_be_is_one_line(checkout: Path, variables: dict[str, str], local: str, complaint: str) -> None:
    require("ruby", "ruby")
    if local:
        (checkout / "vagrant/topology.local.yaml").write_text(local)
    done = run(checkout, "ruby", "topology.rb", **variables)

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("vagrant/topology.rb: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_vagrant_takes_the_vagrantfile(checkout: Path) -> None:
    """With two providers named and neither installed."""
    require("vagrant", "vagrant")
    done = run(checkout, "vagrant", "validate", "--ignore-provider")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Vagrantfile validated successfully." in done.stdout
    assert [] == [name for name in MACHINES if f"==> {name}: " not in done.stdout]


def test_vagrant_takes_what_is_said_to_virtualbox_and_to_ansible(checkout: Path) -> None:
    """The plugin is part of Vagrant; all it wants from VirtualBox is a version it knows."""
    require("vagrant", "vagrant")
    (checkout / "ansible").mkdir()
    (checkout / "ansible/site.yml").write_text("- hosts: kpx\n  tasks: []\n")
    stand_in = checkout / "bin/VBoxManage"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\necho 7.0.20r163906\n")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    done = run(checkout, "vagrant", "validate", VAGRANT_DEFAULT_PROVIDER="virtualbox", PATH=path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_vagrant_takes_what_is_said_to_libvirt(checkout: Path) -> None:
    """The plugin checks its settings without asking libvirt."""
    require("vagrant", "vagrant")
    done = run(checkout, "vagrant", "validate", VAGRANT_DEFAULT_PROVIDER="libvirt")

    if "The provider 'libvirt' could not be found" in done.stderr:
        go_without("the plugin is not installed: apt-get install vagrant-libvirt")
    assert done.returncode == 0, done.stdout + done.stderr


def test_vagrant_says_what_is_wrong_with_an_override(checkout: Path) -> None:
    require("vagrant", "vagrant")
    done = run(checkout, "vagrant", "validate", "--ignore-provider", KPX_CPUS="many")

    assert done.returncode != 0
    assert 'vagrant/: lb1: cpus: "many" must be a whole number above 0' in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to do"),
        (["--no-such-flag"], "unknown argument --no-such-flag"),
        (["lb"], "lb: give the name of this machine"),
        (["lb", "lb1", "lb2"], "lb: give the name of this machine and nothing else"),
    ],
    ids=str,
)
def test_provision_refuses_what_it_does_not_know(arguments: list[str], complaint: str) -> None:
    """And does nothing before it has understood everything."""
    done = subprocess.run([LAB / "provision", *arguments], capture_output=True, text=True, timeout=30, check=False)

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("vagrant/provision: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_provision_helps() -> None:
    done = subprocess.run([LAB / "provision", "--help"], capture_output=True, text=True, timeout=30, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "usage: vagrant/provision" in done.stdout
