"""
Files made to hurt: each is refused, or its faults are named, in bounded memory and time, with a line a person can act on.

What would be without bounds runs in a process of its own, that may use so much memory and processor time and no more.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kpx.model.decode_endpoints import MOST_ENDPOINTS
from kpx.model.endpointslice import EndpointSlice
from kpx.sources.directory import LONGEST_FILE, ManifestDirectory, read_bytes
from kpx.sources.documents import MOST_FINDINGS, Content, read_content
from kpx.sources.yaml_text import MOST_VALUES

MEMORY_BYTES = 1 << 30
PROCESSOR_S = 60
"""Far more than any of them takes, and far less than what they would take without bounds."""

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
SLICE = (
    '{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","addressType":"IPv4",'
    '"metadata":{{"name":"a","labels":{{"kubernetes.io/service-name":"a"}}}},"endpoints":[{}]}}'
)
PORTS = '{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"a"}},"spec":{{"clusterIP":"10.96.0.1","ports":[{}]}}}}'
TOO_MANY = "not a manifest: more than 1,000,000 values"
NODE = "&s {kind: Node, metadata: {name: a}, status: {addresses: [" + "{}, " * 5000 + "]}}"
SHARED = f"kind: List\nitems:\n- {NODE}\n" + "- *s\n" * 50_000
NO_KIND = "kind: the kind is missing"
UNREAD = "kind: kind X is not one kpx reads; ignored"


def laughs(line: str) -> str:
    """Ten of the former on each of eight lines."""
    return "a0: &a0 {x: 1, y: 2}\n" + "".join(line.format(n=n, rest=", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 9))


Hostile = tuple[str, Callable[[], str], str]
"""End of the file's name, what is in it, what is said of it."""

HOSTILE: dict[str, Hostile] = {
    "flow nesting": ("yaml", lambda: "[" * 10_000_000, "not a manifest: nested too deeply"),
    "block nesting": ("yaml", lambda: "- " * 5_000_000, "not a manifest: nested too deeply"),
    "nesting in JSON": ("json", lambda: "[" * 10_000_000, "not a manifest: nested too deeply"),
    "aliases": ("yaml", lambda: laughs("a{n}: &a{n} [{rest}]\n"), TOO_MANY),
    "merge keys": ("yaml", lambda: laughs("a{n}: &a{n} {{<<: [{rest}]}}\n"), TOO_MANY),
    "one object often": ("yaml", lambda: SHARED, TOO_MANY),
    "values": ("yaml", lambda: "[" + "a," * 5_000_000 + "]", TOO_MANY),
    "documents": ("yaml", lambda: "---\n" * 2_500_000, TOO_MANY),
    "faulty documents": ("yaml", lambda: "---\nkind: X\n" * 100_000, UNREAD),
    "faulty JSON documents": ("json", lambda: '{"kind":"X"}\n' * 1_000_000, UNREAD),
    "faulty members": ("json", lambda: '{"kind":"List","items":[' + "1," * 1_000_000 + "1]}", "items[0]: expected an object"),
    "JSON values": ("json", lambda: "[" + "1," * 11_000_000 + "1]", "not a manifest: more than 10,000,000 values"),
    "endpoints": ("json", lambda: SLICE.format('{"addresses":["x"]},' * 1_000_000 + "{}"), "1,000,001 members; at most"),
    "ports": ("json", lambda: PORTS.format('{"port":80},' * 300_000 + "{}"), "spec.ports[1].name: Service default/a: '' is the"),
    "numbers to base 60": ("yaml", lambda: "a: 1" + ":1" * 3_000_000, NO_KIND),
    "fractions to base 60": ("yaml", lambda: "a: 1" + ":1" * 1000 + ":1.5", NO_KIND),
    "long numbers": ("yaml", lambda: "a: " + "9" * 10_000_000, NO_KIND),
    "long numbers in JSON": ("json", lambda: PORTS.format('{"port":' + "9" * 10_000_000 + "}"), "spec.ports[0].port: "),
    "keys of one hash": ("yaml", lambda: "{" + ", ".join(f"{n * (2**61 - 1)}: 1" for n in range(99_999)) + "}", NO_KIND),
    "a long name": ("json", lambda: PORTS.format('{"port":80,"name":"' + "x" * 10_000_000 + '"}'), "spec.ports[0].name: "),
    "a number that does not fit": ("yaml", lambda: "!!float 1" + ":1" * 1000 + ":1.5", "expected an object"),
    "NUL": ("yaml", lambda: SERVICE + "\0", "not YAML: character #x0000 is not allowed"),
}  # fmt: skip


def lines(content: Content) -> list[str]:
    return [str(finding) for finding in content.findings]


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_in_bounded_time_and_memory(what: str, tmp_path: Path) -> None:
    ending, make, said = HOSTILE[what]
    path = tmp_path / f"hostile.{ending}"
    path.write_text(make())
    program = (
        "import sys; from kpx.sources.documents import read_content as read; path = sys.argv[1];"
        "said = read(path, open(path, 'rb').read()); print(len(said.findings), said.findings[0], len(said.objects), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * PROCESSOR_S,
        preexec_fn=_limit,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    count, first, objects = done.stdout.splitlines()
    assert 1 <= int(count) <= MOST_FINDINGS + 1
    assert said in first
    assert len(first) < 1000
    assert objects == "0"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))


@pytest.mark.parametrize(
    "text",
    [
        'kind: "X\\nerror all is lost"\n',
        SERVICE.replace("web", '"x\\nerror all is lost"'),
        "a: !<tag:x%0Aerror-all-is-lost> b\n",
        'kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80, name: "a\\nb"}]}\n',
    ],
)
def test_nobody_writes_a_line_of_the_log(text: str) -> None:
    (said,) = lines(read_content("m.yaml", text.encode()))

    assert said.isprintable()
    assert "\\n" in said


def test_what_is_left_out_is_counted() -> None:
    content = read_content("m.json", b'{"kind":"List","items":[' + b"1," * 500 + b"1]}")

    assert len(content.findings) == MOST_FINDINGS + 1
    assert lines(content)[-1] == f"m.json: and {501 - MOST_FINDINGS} more like these; correct those that are named first"


def test_aliases_within_bounds_are_understood() -> None:
    """A list of endpoints that many slices share is a use of aliases, and no abuse."""
    head = "- {{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, addressType: IPv4, metadata: {{name: s{}, labels: {}}}, "
    head += "endpoints: {}}}\n"
    listed = "&all [" + ", ".join(f"{{addresses: [10.0.0.{n}]}}" for n in range(100)) + "]"
    rest = (head.format(number, "{kubernetes.io/service-name: a}", "*all") for number in range(1, 100))
    text = "kind: List\nitems:\n" + head.format(0, "{kubernetes.io/service-name: a}", listed) + "".join(rest)
    content = read_content("m.yaml", text.encode())

    assert lines(content) == []
    slices = [value for held in content.objects for value in held.values]
    assert [len(each.endpoints) for each in slices if isinstance(each, EndpointSlice)] == [100] * 100


def test_as_many_values_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpx.sources.yaml_text.MOST_VALUES", 1000)
    whole = read_content("m.yaml", b"[" + b"a," * 998 + b"a]")
    more = read_content("m.yaml", b"[" + b"a," * 999 + b"a]")

    assert (whole.whole, more.whole) == (True, False)
    assert MOST_VALUES == 1_000_000


def test_a_slice_too_long_keeps_its_last_good_version() -> None:
    content = read_content("m.json", SLICE.format(",".join(["{}"] * (MOST_ENDPOINTS + 1))).encode())

    assert [str(name) for _, name in content.failed] == ["default/a"]


def test_what_is_no_file_is_named_and_the_others_count(tmp_path: Path) -> None:
    """A FIFO nobody writes to, a device without end, a loop of links, a directory, a file with a hole of a tebibyte."""
    (tmp_path / "good.yaml").write_text(SERVICE)
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with (tmp_path / "hole.yaml").open("wb") as file:
        file.truncate(1 << 40)
    files = ManifestDirectory(str(tmp_path))
    events, missing = files.update(files.names())

    assert ([str(event.object.name) for event in events], missing) == (["default/web"], frozenset())  # type: ignore[union-attr]
    said = {line.removeprefix(f"{tmp_path}/").partition(": ")[0]: line.partition(": ")[2] for line in map(str, files.findings())}
    assert said == {
        "device.yaml": "it is not a regular file",
        "directory.yaml": "it is a directory; kpx does not look into directories, move its files up",
        "fifo.yaml": "it is not a regular file",
        "hole.yaml": "it is longer than 256 MiB; split it",
        "latin.yaml:1": "the file is not UTF-8 text; convert it; what the file said before stays in force",
        "loop.yaml": "Too many levels of symbolic links",
    }


def test_a_file_that_grows_is_read_to_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever appends faster than it is read would otherwise fill the memory."""
    monkeypatch.setattr("kpx.sources.directory.LONGEST_FILE", 4096)
    path = tmp_path / "growing.yaml"
    path.write_bytes(b"#" * 4096)
    assert len(read_bytes(str(path))) == 4096
    with path.open("ab") as file:
        file.write(b"#")
    with pytest.raises(OSError, match="it is longer than"):
        read_bytes(str(path))
    assert LONGEST_FILE == 256 << 20


def test_a_file_that_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path: Path) -> None:
    """By rename, as README tells: what is read is a whole, whenever that happens."""
    path = tmp_path / "web.yaml"
    versions = [SERVICE + "#" * 2_000_000 + "\n", SERVICE.replace("10.96.0.1", "10.96.0.2")]
    path.write_text(versions[0])
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            for number, version in enumerate(versions):
                (tmp_path / f".{number}").write_text(version)
                os.rename(tmp_path / f".{number}", path)

    writing = threading.Thread(target=replace)
    writing.start()
    try:
        read = {read_bytes(str(path)) for _ in range(200)}
    finally:
        over.set()
        writing.join()

    assert read <= {version.encode() for version in versions}
