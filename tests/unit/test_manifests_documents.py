"""One file's bytes to objects and findings with lines: YAML, JSON, and everything that can be wrong with either."""

from __future__ import annotations

import json

import pytest

from kpx.sources.documents import Content, read_content

GOOD = """\
# two documents and an empty one
kind: Service
metadata: {name: tomcat, namespace: shop, creationTimestamp: 2026-11-22T21:26:29Z}
spec:
  clusterIP: 10.96.0.10
  ports:
  - {name: http, port: 8080}
---
---
kind: EndpointSlice
metadata:
  name: tomcat-1
  namespace: shop
  labels: {kubernetes.io/service-name: tomcat}
addressType: IPv4
endpoints: []
"""


def read(text: str, name: str = "shop.yaml") -> Content:
    return read_content(name, text.encode())


def lines(content: Content) -> list[str]:
    return list(map(str, content.findings))


def test_a_file_holds_several_documents_each_with_its_line() -> None:
    content = read(GOOD)

    assert content.findings == ()
    assert [(held.kind, str(held.name), held.line) for held in content.objects] == [
        ("Service", "shop/tomcat", 2),
        ("EndpointSlice", "shop/tomcat-1", 10),
    ]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n", "\ufeff"])
@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_an_empty_file_says_nothing(text: str, name: str) -> None:
    if name.endswith("json") and text.strip("\ufeff \n"):
        text = ""

    assert read(text, name) == Content()


def test_anchors_and_merge_keys_are_understood() -> None:
    content = read(
        """\
kind: List
items:
- &first {kind: Service, metadata: {name: a}, spec: &spec {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
- {<<: *first, metadata: {name: b}, spec: {<<: *spec, clusterIP: 10.96.0.2}}
"""
    )

    assert content.findings == ()
    assert [held.name.name for held in content.objects] == ["a", "b"]


def test_a_date_stays_text() -> None:
    """As in Kubernetes' own parser; PyYAML would make a date of it."""
    content = read("{kind: Service, metadata: {name: a, namespace: 2024-01-01}, spec: {clusterIP: 10.96.0.1}}")

    assert [str(held.name) for held in content.objects] == ["2024-01-01/a"]


def test_a_wrong_field_is_named_with_its_own_line() -> None:
    content = read(GOOD.replace("port: 8080", "port: 80800").replace("addressType: IPv4", "addressType: [IPv4]"))

    assert lines(content) == [
        "shop.yaml:7: spec.ports[0].port: Service shop/tomcat: 80800 is not a port; use 1 to 65535",
        "shop.yaml:15: addressType: EndpointSlice shop/tomcat-1: expected text, got a list",
    ]
    assert {(kind, str(name)) for kind, name in content.failed} == {
        ("Service", "shop/tomcat"),
        ("EndpointSlice", "shop/tomcat-1"),
    }


def test_a_missing_field_is_named_with_the_line_of_the_mapping_it_belongs_in() -> None:
    content = read("---\nkind: Service\nmetadata:\n  namespace: shop\n")

    assert lines(content) == ["shop.yaml:3: metadata.name: Service: the name is missing"]


def test_a_label_with_dots_in_its_name_is_found() -> None:
    text = GOOD.replace("labels: {kubernetes.io/service-name: tomcat}", "labels:\n    a: b\n    kubernetes.io/service-name: 7")

    assert lines(read(text)) == [
        "shop.yaml:16: metadata.labels.kubernetes.io/service-name: EndpointSlice shop/tomcat-1: expected text, got a whole number"
    ]


def test_unknown_kinds_warn_with_their_line() -> None:
    content = read(GOOD + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n")

    assert lines(content) == ["shop.yaml:19: kind: kind Deployment is not one kpx reads; ignored"]
    assert len(content.objects) == 2


KEPT = "; what the file said before stays in force"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (GOOD + "---\na: b: c\n", "x.yaml:18: not YAML: mapping values are not allowed in this context"),
        (GOOD + "---\n\ta: 1\n", "x.yaml:18: not YAML: found character that cannot start any token"),
        (GOOD + "---\na: *x\n", "x.yaml:18: not YAML: found undefined alias"),
        (GOOD + "---\na: 'x\n", "x.yaml:19: not YAML: found unexpected end of stream"),
        (GOOD + "---\na: !foo x\n", "x.yaml:18: not YAML: could not determine a constructor for the tag '!foo'"),
        (GOOD + "---\n? [1]\n: 2\n", "x.yaml:18: not YAML: found unhashable key"),
        (GOOD + "---\na: \x01\n", "x.yaml:18: not YAML: character #x0001 is not allowed"),
        ("a: !!int x\n", "x.yaml: not YAML: a value does not fit its tag (invalid literal for int() with base 10: 'x')"),
        ("a: !!timestamp x\n", "x.yaml: not YAML: a value does not fit its tag ('NoneType' object has no attribute 'groupdict')"),
        ("[" * 60000, "x.yaml:1: not a manifest: nested too deeply"),
        ("- " * 60000, "x.yaml:1: not a manifest: nested too deeply"),
    ],
)
def test_a_file_that_is_no_yaml_counts_for_nothing_and_says_where(text: str, finding: str) -> None:
    content = read(text, "x.yaml")

    assert lines(content) == [finding + KEPT]
    assert (content.whole, content.objects) == (False, ())


def test_a_file_that_is_no_utf8_says_where() -> None:
    assert lines(read_content("x.yaml", GOOD.encode() + b"# caf\xe9\n")) == [
        "x.yaml:17: the file is not UTF-8 text; convert it" + KEPT
    ]


def service(name: str, port: object = 80) -> dict[str, object]:
    return {"kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(service("a")) + json.dumps(service("b")),
        json.dumps(service("a")) + "\n" + json.dumps(service("b")) + "\n",
        json.dumps({"kind": "List", "items": [service("a"), service("b")]}),
        json.dumps(service("a"), indent=1) + "\n\n" + json.dumps(service("b"), indent=1),
    ],
)
def test_json_is_one_object_a_list_or_several_documents(text: str) -> None:
    content = read(text, "x.json")

    assert content.findings == ()
    assert [held.name.name for held in content.objects] == ["a", "b"]


def test_a_wrong_field_of_json_is_named_with_its_line() -> None:
    text = json.dumps(service("a")) + "\n" + json.dumps({"kind": "List", "items": [service("b"), service("c", 0)]}, indent=1)

    assert lines(read(text, "x.json")) == [
        "x.json:28: items[1].spec.ports[0].port: Service default/c: 0 is not a port; use 1 to 65535"
    ]
    assert text.splitlines()[27].strip() == '"port": 0'


def test_a_large_json_list_names_the_bad_member_by_its_path() -> None:
    """10,000 services with one bad: one line, the others count."""
    items = [service(f"s{index}", "http" if index == 4711 else 80) for index in range(10_000)]
    content = read(json.dumps({"kind": "List", "items": items}), "x.json")

    assert lines(content) == [
        "x.json:1: items[4711].spec.ports[0].port: Service default/s4711: expected a whole number, got text"
    ]
    assert len(content.objects) == 9_999


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ('{"kind": "Service",}', "x.json:1: not JSON: Illegal trailing comma before end of object, column 19"),
        ('{"kind": "Service"}\n{"kind": ', "x.json:2: not JSON: Expecting value, column 10"),
        ('{"kind": "Serv', "x.json:1: not JSON: Unterminated string starting at, column 10"),
        ("kind: Service", "x.json:1: not JSON: Expecting value, column 1"),
        ('{"kind": "Service", "x": NaN}', "x.json:1: not JSON: NaN is not a JSON value"),
        ("[" * 100000, "x.json:1: not a manifest: nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_counts_for_nothing_and_says_where(text: str, finding: str) -> None:
    content = read(text, "x.json")
    first, *rest = lines(content)

    assert not rest
    if "trailing comma" not in finding:  # the words for that one differ between versions of Python
        assert first == finding + KEPT
    assert first.startswith(finding[: finding.index("not")])
    assert content.whole is False


def test_yaml_may_say_nan_where_kpx_does_not_read() -> None:
    text = "{kind: Service, metadata: {name: a, x: .nan}, spec: {clusterIP: 10.96.0.1}}"

    assert [held.name.name for held in read(text).objects] == ["a"]


def test_a_value_of_any_depth_is_one_short_line() -> None:
    deep = "[" * 5000 + "]" * 5000
    content = read("{kind: Service, metadata: {name: a, creationTimestamp: " + deep + "}, spec: {clusterIP: 10.96.0.1}}")

    assert lines(content) == [
        "shop.yaml:1: metadata.creationTimestamp: Service default/a: a list is not an RFC 3339 time; treated as unknown"
    ]


def test_yaml_that_contains_itself_does_no_harm() -> None:
    content = read(
        "&me\nkind: List\nitems: [*me, {kind: Service, metadata: {name: a}, spec: &s {clusterIP: 10.96.0.1, ports: *s}}]\n"
    )

    assert [held.name.name for held in content.objects] == []
    assert len(lines(content)) == 2
