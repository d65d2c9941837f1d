"""Files that are nearly manifests."""

from __future__ import annotations

import json

import msgspec
import yaml
from hypothesis import strategies as st

from kpx import api
from kpx.cluster.events import Upsert
from kpx.cluster.view import ClusterView
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.sources.documents import MOST_FINDINGS, Content, read_content

KEYS = [
    "kind",
    "apiVersion",
    "metadata",
    "spec",
    "status",
    "items",
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "type",
    "clusterIP",
    "clusterIPs",
    "ports",
    "port",
    "nodePort",
    "protocol",
    "externalIPs",
    "ipFamilies",
    "loadBalancerSourceRanges",
    "sessionAffinity",
    "sessionAffinityConfig",
    "clientIP",
    "timeoutSeconds",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "healthCheckNodePort",
    "loadBalancer",
    "ingress",
    "ip",
    "ipMode",
    "endpoints",
    "addresses",
    "conditions",
    "ready",
    "serving",
    "terminating",
    "nodeName",
    "zone",
    "hints",
    "forZones",
    "addressType",
    "subsets",
    "notReadyAddresses",
    "cidrs",
    "podCIDR",
    "podCIDRs",
    "taints",
    "key",
    "kubernetes.io/service-name",
    "service.kubernetes.io/headless",
    "service.kubernetes.io/service-proxy-name",
    "kpx.io/health-check",
    "kpx.io/health-check-interval",
    "kpx.io/scheduler",
    "kpx.io/scheduler-flags",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "<<",
]
WORDS = [
    "Service",
    "EndpointSlice",
    "Endpoints",
    "Node",
    "ServiceCIDR",
    "List",
    "ServiceList",
    "v1",
    "discovery.k8s.io/v1",
    "networking.k8s.io/v1",
    "web",
    "shop",
    "ClusterIP",
    "LoadBalancer",
    "NodePort",
    "ExternalName",
    "None",
    "Local",
    "Cluster",
    "TCP",
    "UDP",
    "SCTP",
    "IPv4",
    "IPv6",
    "FQDN",
    "ClientIP",
    "VIP",
    "Proxy",
    "tcp",
    "http:///x",
    "10.96.0.1",
    "10.96.0.010",
    "fd00:96::1",
    "::ffff:10.0.0.1",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "1.2.3.4/33",
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "fe80::1%eth0",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59+00:01",
    "0001-01-01T00:00:00+23:59",
    "10:30",
    "1e999",
    "0x1f",
    ".inf",
    ".nan",
    "~",
    "-",
    "?",
    "*a",
    "&a",
    "!!int",
    "!!set",
]
NUMBERS = st.integers(-2, 70_000) | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5),
    max_leaves=20,
)
SERVICE = {
    "kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80, "nodePort": 30080}], "externalIPs": ["192.0.2.1"]},
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
}  # fmt: skip
SLICE = {
    "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["10.244.1.2"], "conditions": {"ready": True}}],
}  # fmt: skip
NODE = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP"}]}}
CIDR = {
    "kind": "ServiceCIDR",
    "apiVersion": "networking.k8s.io/v1",
    "metadata": {"name": "k"},
    "spec": {"cidrs": ["10.96.0.0/16"]},
}


@st.composite
def objects(draw: st.DrawFn) -> object:
    """An object that is right but for a few places, or anything."""
    whole = draw(st.sampled_from([SERVICE, SLICE, NODE, CIDR, None]))
    if whole is None:
        return draw(VALUES)
    found = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(0, 3))):
        place = found
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None or not isinstance(place[key], dict | list) or draw(st.booleans()):
                break
            place = place[key]
        if isinstance(place, dict) and (key is None or draw(st.booleans())):
            key = draw(st.sampled_from(KEYS))
        if key is not None:
            place[key] = draw(VALUES)
    return found


YAML_PIECES = (
    "&a ", "*a", "<<: *a\n", "<<: [*a, *a]", "? ", "- ", "[", "{", "}", "---\n", "...\n", "!!int ", "!!float ", "!!timestamp ",
    "!!omap ", "!!set ", "!!pairs ", "!!python/none ", "%YAML 1.1\n", "\0", "\x85", "1:59:59.5", "\t", ": ", "'", "|\n",
)  # fmt: skip
JSON_PIECES = [b"[", b"{", b'"', b"\\u0000", b"\\ud800", b"1e999", b"-", b"NaN", b",", b"\xff", b'{"kind":']


def _bent(draw: st.DrawFn, data: bytes, pieces: list[bytes]) -> bytes:
    """Text with a few places cut, doubled, or with a piece of something else in them."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        behind = min(len(data), at + draw(st.integers(0, 20)))
        data = data[:at] + draw(st.sampled_from([*pieces, data[at:behind] * 2, b""]) | st.binary(max_size=4)) + data[behind:]
    return data


@st.composite
def yaml_files(draw: st.DrawFn) -> bytes:
    """A YAML file."""
    documents = draw(st.lists(objects(), max_size=4))
    text = yaml.safe_dump_all(documents, default_flow_style=draw(st.booleans()), allow_unicode=True, width=1000)
    return _bent(draw, text.encode(errors="surrogatepass"), [piece.encode() for piece in YAML_PIECES])


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    """A JSON file."""
    documents = draw(st.lists(objects(), max_size=4))
    listed = {"kind": draw(st.sampled_from(["List", "ServiceList", "EndpointSliceList"])), "apiVersion": "v1", "items": documents}
    text = json.dumps(listed) if draw(st.booleans()) else draw(st.sampled_from(["\n", " ", ""])).join(map(json.dumps, documents))
    return _bent(
        draw, text.encode(), [b"[", b"{", b'"', b"\\u0000", b"\\ud800", b"1e999", b"-", b"NaN", b",", b"\xff", b'{"kind":']
    )


FACTS = NodeFacts(
    "n1",
    node_ips=(parse_address("192.0.2.1"),),
    node_port_any=frozenset(Family),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
    own_addresses=frozenset({parse_address("192.0.2.1")}),
)


def check(path: str, data: bytes) -> None:
    """Read a file as the source does, and go on with what it says as the agent does, down to rows and lines of the log."""
    content = read_content(path, data)
    assert isinstance(content, Content)
    assert len(content.findings) <= MOST_FINDINGS + 1
    for finding in content.findings:
        assert len(str(finding)) < 2000
        assert str(finding).isprintable() or "\n" not in str(finding)
    view = ClusterView()
    for held in content.objects:
        for value in held.values:
            view.fold(Upsert(value))
    msgspec.json.encode([held.values for held in content.objects if held.kind != "Service"], enc_hook=str)
    programs = api.compile(view, FACTS)
    for name in ("nftables", "ipvs"):
        api.render(api.open_dataplane(name, kernel=False), programs, FACTS, view.service_cidrs.values())
    packet = api.packet("10.96.0.1:80")
    api.explain(packet, view, FACTS, programs, addresses=FACTS.own_addresses)
