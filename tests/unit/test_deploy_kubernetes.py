"""
deploy/kubernetes: whatever the manifests name exists in kpx, and what they ask of a cluster is what the agent needs.

`kubectl kustomize` renders overlays where it is installed; the files themselves are looked at in any case.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

import kpx
from kpx.agent.health import Health
from kpx.agent.metrics import Metrics
from kpx.agent.pages import probes
from kpx.cli import VERBS, main
from kpx.cli.cleanup import cleanup
from kpx.cli.run import run
from kpx.cluster.events import Synced
from kpx.settings.config import SETTINGS, Config, make_config, parse_listen_address
from kpx.settings.config_file import ConfigFile, read_config_file
from kpx.sources.kubernetes.permissions import Permission, permissions
from kpx.sources.kubernetes.source import KubernetesSource
from tests.lab.apiserver import ApiServer
from tests.lab.objects import node

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY / "kubernetes"
KUSTOMIZATIONS = sorted(path.parent for path in ROOT.rglob("kustomization.yaml"))
SETTINGS_FILES = sorted(ROOT.rglob("config.yaml"))
IMAGE = f"kpx:{kpx.__version__}"
COMMANDS = {"run": run, "cleanup": cleanup}
MOST = {"kpx": {"NET_ADMIN", "NET_RAW"}, "cleanup": {"NET_ADMIN", "NET_RAW", "SYS_PTRACE"}, "done": set()}
"""The most powers each container may ever ask for, by name; `init` is privileged instead."""

PATIENCE_S = 40.0

Manifest = dict[str, Any]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def rendered(directory: Path) -> list[Manifest]:
    """Return what `kubectl apply -k` would send; the machine decides whether it can be seen."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed, so kustomize cannot render")
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    done = subprocess.run(
        [kubectl, "kustomize", directory], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    return documents(done.stdout)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def files() -> list[Manifest]:
    """Return every DaemonSet as it is written, without patches."""
    return [one for path in sorted(ROOT.rglob("daemonset.yaml")) for one in documents(path.read_text())]


def containers(daemonset: Manifest) -> Iterator[Manifest]:
    pod = daemonset["spec"]["template"]["spec"]
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def agent_of(manifests: list[Manifest]) -> Manifest:
    (daemonset,) = of_kind(manifests, "DaemonSet")
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    return agent


def check_powers(daemonset: Manifest) -> None:
    """Nothing is privileged but what sets sysctls, and nobody can get more than he is given."""
    pod = daemonset["spec"]["template"]["spec"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(daemonset):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        if container["name"] == "init":
            assert "--init-only" in container["args"]
            continue
        assert not context.get("privileged")
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert set(context["capabilities"].get("add", ())) <= MOST[container["name"]]


def check_commands(daemonset: Manifest) -> None:
    """Verbs, options and variables are kpx's."""
    for container in containers(daemonset):
        if container.get("command") == ["sleep", "infinity"]:
            continue
        verb, *options = container["args"]
        known = {text for parameter in COMMANDS[verb].params for text in (*parameter.opts, *parameter.secondary_opts)}
        assert verb in VERBS
        assert {option.partition("=")[0] for option in options} <= known | {opt for one in main.params for opt in one.opts}
        variables = {variable["name"] for variable in container.get("env", ())}
        assert variables <= {setting.variable for setting in SETTINGS}


def check_mounts(daemonset: Manifest) -> None:
    """Every volume is mounted, and every mount has its volume."""
    mounted = {mount["name"] for container in containers(daemonset) for mount in container.get("volumeMounts", ())}

    assert mounted == {volume["name"] for volume in daemonset["spec"]["template"]["spec"]["volumes"]}


def check_place(daemonset: Manifest) -> None:
    """It runs on every node, however tainted, before everything else, in the host's network."""
    pod = daemonset["spec"]["template"]["spec"]

    assert pod["hostNetwork"] is True
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert all("requests" in container["resources"] for container in containers(daemonset))


CHECKS = (check_powers, check_commands, check_mounts, check_place)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_daemonset_as_written(check: Any) -> None:
    for daemonset in files():
        check(daemonset)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=name_of)
def test_daemonset_as_rendered(directory: Path, check: Any) -> None:
    (daemonset,) = of_kind(rendered(directory), "DaemonSet")

    check(daemonset)


SCALARS = {"str": str, "int": int, "bool": bool, "object": (str, int)}


def misfits(value: Any, of: str, path: str) -> Iterator[str]:
    """Yield what the API has no such field for, or of another type; `of` is a type of the kubernetes package's models."""
    inner = re.fullmatch(r"(?:List|list)\[(.+)\]|(?:Dict|dict)\(?\[?str, (.+?)[\])]", of)
    if inner:
        many = enumerate(value) if inner[1] else value.items()
        for key, member in many:
            yield from misfits(member, inner[1] or inner[2], f"{path}[{key}]")
    elif of in SCALARS:
        if not isinstance(value, SCALARS[of]):
            yield f"{path}: {value!r} is not {of}"
    else:
        model = getattr(client, of)
        fields = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        for name, member in value.items():
            if name not in fields:
                yield f"{path}.{name}: {of} has no such field"
            else:
                yield from misfits(member, fields[name], f"{path}.{name}")


def test_misfits_are_found() -> None:
    wrong = {"spec": {"template": {"spec": {"containers": [{"name": 5, "livenessprobe": {}}]}}}}

    assert list(misfits(wrong, "V1DaemonSet", "")) == [
        ".spec.template.spec.containers[0].name: 5 is not str",
        ".spec.template.spec.containers[0].livenessprobe: V1Container has no such field",
    ]


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=name_of)
def test_fields_are_those_of_the_api(directory: Path) -> None:
    """A misspelt field is dropped in silence by a server that does not validate, and so would be what it is for."""
    for manifest in rendered(directory):
        assert list(misfits(manifest, f"V1{manifest['kind']}", manifest["kind"])) == []


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=name_of)
def test_everything_is_in_one_namespace_and_of_one_image(directory: Path) -> None:
    manifests = rendered(directory)

    assert {m["metadata"].get("namespace", "") for m in manifests if not m["kind"].startswith("ClusterRole")} == {"kube-system"}
    assert {c["image"] for daemonset in of_kind(manifests, "DaemonSet") for c in containers(daemonset)} == {IMAGE}


def test_image_is_named_once_a_kustomization_and_has_the_version() -> None:
    tags = [image for path in ROOT.rglob("kustomization.yaml") for image in yaml.safe_load(path.read_text()).get("images", ())]

    assert tags
    assert all(image == {"name": "kpx", "newTag": kpx.__version__} for image in tags)
    assert f"-t {IMAGE} " in (DEPLOY / "Containerfile").read_text()


@pytest.mark.parametrize(
    ("overlay", "added"),
    [
        ("base", ["NET_ADMIN", "NET_RAW"]),
        ("overlays/ipvs", ["NET_ADMIN", "NET_RAW"]),
        ("overlays/kubeadm", ["NET_ADMIN", "NET_RAW"]),
        ("overlays/nftables", ["NET_ADMIN"]),
        ("overlays/kube-proxy-side-by-side", ["NET_ADMIN"]),
    ],
)
def test_agent_has_the_powers_of_its_mode(overlay: str, added: list[str]) -> None:
    """For ipvs, iptables restores rules that match ipsets, which takes a raw socket; nftables is netlink alone."""
    assert agent_of(rendered(ROOT / overlay))["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": added}


def test_trial_beside_kube_proxy_has_nothing_privileged() -> None:
    (daemonset,) = of_kind(rendered(ROOT / "overlays" / "kube-proxy-side-by-side"), "DaemonSet")

    assert [container["name"] for container in containers(daemonset)] == ["kpx"]


@pytest.mark.parametrize("path", SETTINGS_FILES, ids=name_of)
def test_settings_are_ones_kpx_takes(path: Path) -> None:
    """Read by the code that reads them in the pod."""
    read = read_config_file(str(path))
    config = make_config(read.values)

    assert (read.findings, read.notes) == ((), ())
    assert config != Config()
    assert parse_listen_address("--metrics-bind-address", config.metrics_bind_address)[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("overlay", "wanted"),
    [
        ("base", {"proxy_mode": "auto"}),
        ("overlays/ipvs", {"proxy_mode": "ipvs"}),
        ("overlays/nftables", {"proxy_mode": "nftables"}),
        ("overlays/kube-proxy-side-by-side", {"proxy_mode": "nftables", "service_proxy_name": "kpx"}),
    ],
)
def test_overlay_is_what_it_says(overlay: str, wanted: dict[str, object], tmp_path: Path) -> None:
    config = make_config(in_force(rendered(ROOT / overlay), tmp_path).values)

    assert {field: getattr(config, field) for field in wanted} == wanted


@pytest.mark.parametrize("overlay", ["base", "overlays/ipvs", "overlays/nftables", "overlays/kube-proxy-side-by-side"])
def test_probes_ask_where_the_agent_answers(overlay: str, tmp_path: Path) -> None:
    manifests = rendered(ROOT / overlay)
    config = make_config(in_force(manifests, tmp_path).values)
    agent = agent_of(manifests)
    host, port = parse_listen_address("--healthz-bind-address", config.healthz_bind_address)

    assert host == "0.0.0.0"
    assert agent["ports"] == [{"name": "healthz", "containerPort": port}]
    paths = {probe: agent[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {get["port"] for get in paths.values()} == {"healthz"}
    assert [get["path"] for get in paths.values()] == ["/livez", "/livez", "/readyz"]
    assert {get["path"] for get in paths.values()} <= probes(Health([]), Metrics("nftables")).keys()


def test_kubeadm_is_run_by_what_kube_proxy_was_run_by(tmp_path: Path) -> None:
    """Its files name each other by the path they are mounted at, and nothing outside of them may say otherwise."""
    agent = agent_of(rendered(ROOT / "overlays" / "kubeadm"))
    whole = yaml.safe_load((Path(__file__).parents[1] / "data" / "kube-proxy" / "configmap-kubeadm.yaml").read_text())
    (given,) = [Path(argument.partition("=")[2]) for argument in agent["args"] if argument.startswith("--config=")]
    (tmp_path / given.name).write_text(whole["data"][given.name])
    config = make_config(read_config_file(str(tmp_path / given.name)).values)
    kubeconfig = Path(config.kubeconfig)

    assert {"name": "config", "mountPath": str(given.parent), "readOnly": True} in agent["volumeMounts"]
    assert (kubeconfig.parent, kubeconfig.name in whole["data"]) == (given.parent, True)
    assert {variable["name"] for variable in agent["env"]} == {"KPX_HOSTNAME_OVERRIDE", "KPX_OOM_SCORE_ADJ"}
    assert not agent.get("envFrom")
    _, port = parse_listen_address("--healthz-bind-address", config.healthz_bind_address)
    assert agent["ports"] == [{"name": "healthz", "containerPort": port}]


def test_agents_replace_each_other_and_never_meet() -> None:
    """Decision 0007: a second agent in a network namespace is refused, so the old one has to go first."""
    (daemonset,) = [one for one in files() if one["metadata"]["name"] == "kpx"]

    assert daemonset["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert daemonset["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] <= 10


def test_rbac_is_what_the_code_asks_for() -> None:
    granted = [
        Permission(group, resource, verb)
        for document in documents((ROOT / "base" / "rbac.yaml").read_text())
        for rule in document.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]

    assert len(granted) == len(set(granted))
    assert set(granted) == permissions()


def test_source_asks_for_what_the_table_says() -> None:
    """The table is right about the code: with one connection each, every kind is listed and watched and nothing else."""
    with ApiServer() as server, contextlib.closing(KubernetesSource("n1", master=server.url)) as source:
        server.apply(node("192.0.2.1", name="n1"))
        news = source.start()
        give_up = time.monotonic() + PATIENCE_S
        while Synced() not in news.events or len({one.resource for one in server.requests("watch")}) < 4:
            assert time.monotonic() < give_up, news.findings
            select.select([source], [], [], 0.05)
            news = news._replace(events=news.events + source.poll().events)
        asked = {(one.resource, one.verb) for one in server.requests()}

    assert {verb for _, verb in asked} <= {"list", "watch"}
    assert {resource for resource, _ in asked} == {one.resource for one in permissions() if one.verb == "watch"}


def test_rights_are_the_agents() -> None:
    role, binding = documents((ROOT / "base" / "rbac.yaml").read_text())
    (account,) = documents((ROOT / "base" / "serviceaccount.yaml").read_text())
    (subject,) = binding["subjects"]

    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
    assert [d["spec"]["template"]["spec"].get("serviceAccountName") for d in files()] == [account["metadata"]["name"], None]


def test_api_server_file_sets_a_setting() -> None:
    lines = (ROOT / "base" / "api-server.env").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}

    assert names == {"KPX_MASTER"}
    assert names <= {setting.variable for setting in SETTINGS}


def test_image_has_what_it_is_made_of_and_nothing_else() -> None:
    recipe = (DEPLOY / "Containerfile").read_text()
    copied = {
        word.strip("/") for line in re.findall(r"^COPY (?!--from)(.+) /\S+$", recipe, re.MULTILINE) for word in line.split()
    }
    lines = (DEPLOY.parent / ".containerignore").read_text().splitlines()

    assert copied == {line[1:] for line in lines if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in copied)
    assert re.search(r"^USER (\d+):(\d+)$", recipe, re.MULTILINE)
    assert not re.search(r"^USER 0", recipe, re.MULTILINE)


def in_force(manifests: list[Manifest], directory: Path) -> ConfigFile:
    """Return the settings the agent's pod would read."""
    (daemonset,) = of_kind(manifests, "DaemonSet")
    volumes = {volume["name"]: volume for volume in daemonset["spec"]["template"]["spec"]["volumes"]}
    name = volumes["config"]["configMap"]["name"]
    (found,) = [one for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"] == name]
    (given,) = [argument for argument in agent_of(manifests)["args"] if argument.startswith("--config=")]
    path = directory / Path(given.partition("=")[2]).name
    path.write_text(found["data"][path.name])
    return read_config_file(str(path))


def test_documents_name_overlays_that_are_there() -> None:
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    there = {path.name for path in KUSTOMIZATIONS} - {"base"}

    assert set(re.findall(r"overlays/([\w-]+)", text)) <= there
    assert set(re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", text.partition("## Deploy")[0], re.MULTILINE)) == there
