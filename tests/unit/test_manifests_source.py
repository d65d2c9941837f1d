"""The watched directory: which file operations are events, and what stays in force when something is wrong."""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx.cluster.events import Delete, Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.errors import SourceError
from kpx.sources.base import News
from kpx.sources.manifests import ManifestSource, read_directory

PATIENCE_S = 5.0
"""How long something that will happen may take on a busy machine."""


def service(name: str, port: object = 80, address: str = "10.96.0.1") -> str:
    return f"""\
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: {address}
  ports: [{{port: {port}}}]
"""


class Watched:
    """A source on a directory, and the view its events lead to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = ManifestSource(str(directory))
        self.view = ClusterView()
        self.findings: tuple[str, ...] = ()

    def start(self) -> None:
        self._take(self.source.start())

    def poll(self) -> list[str]:
        """Return what happened so far, as words."""
        return self._take(self.source.poll())

    def settle(self) -> list[str]:
        """Return what happened until the source no longer wants to be called at a certain time."""
        said = self.poll()
        give_up = time.monotonic() + PATIENCE_S
        while (due := self.source.deadline()) is not None:
            assert time.monotonic() < give_up
            select.select([self.source], [], [], max(0.0, due - time.monotonic()))
            said += self.poll()
        return said

    def write(self, name: str, *texts: str) -> None:
        (self.directory / name).write_text("---\n".join(texts))

    def ports(self) -> dict[str, int]:
        """Return the first port of each Service in force."""
        return {name.name: found.ports[0].port for name, found in self.view.services.items()}

    def complaints(self) -> list[str]:
        return [text.removeprefix(f"{self.directory}/").replace(f"{self.directory}/", "") for text in self.findings]

    def _take(self, news: News) -> list[str]:
        said = []
        for event in news.events:
            self.view.fold(event)
            if isinstance(event, Upsert):
                said.append(f"+{event.object.name.name}")
            elif isinstance(event, Delete):
                said.append(f"-{event.name.name}")
        self.findings = tuple(map(str, news.findings))
        return said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Return a started source on a directory with one Service, tomcat, in tomcat.yaml."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    found = Watched(directory)
    found.write("tomcat.yaml", service("tomcat", 8080))
    try:
        found.start()
        yield found
    finally:
        found.source.close()


def test_start_says_everything_and_then_synced(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"kind": "Node", "metadata": {"name": "n1"}}')
    (tmp_path / "a.yml").write_text(service("web"))
    source = ManifestSource(str(tmp_path))
    before = time.monotonic()
    news = source.start()
    source.close()

    assert [type(event) for event in news.events] == [Upsert, Upsert, Synced]
    assert news.findings == ()
    assert before <= news.read_at <= time.monotonic()


def test_reading_once_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("web") + "---\nkind: Pod\n")
    source = ManifestSource(str(tmp_path))
    started = source.start()
    source.close()
    once = read_directory(str(tmp_path))

    assert (once.events, once.findings) == (started.events, started.findings)


@pytest.mark.parametrize("name", [".hidden.yaml", "..data.yaml", "notes.txt", "tomcat.yaml~", "tomcat.yaml.swp", "yaml"])
def test_other_names_are_not_read(watched: Watched, name: str) -> None:
    watched.write(name, service("other"))

    assert watched.settle() == []
    assert watched.complaints() == []


def test_close_is_idempotent(tmp_path: Path) -> None:
    source = ManifestSource(str(tmp_path))
    source.start()
    source.close()
    source.close()


def test_a_quiet_directory_wakes_nobody(watched: Watched) -> None:
    assert select.select([watched.source], [], [], 0)[0] == []
    assert watched.source.deadline() is None
    assert watched.poll() == []


def test_a_new_file_makes_the_descriptor_readable_and_is_read(watched: Watched) -> None:
    descriptor = watched.source.fileno()
    watched.write("web.yaml", service("web"))

    assert select.select([descriptor], [], [], PATIENCE_S)[0] == [descriptor]
    assert watched.poll() == ["+web"]
    assert select.select([descriptor], [], [], 0)[0] == []


def test_only_what_changed_in_a_file_is_said(watched: Watched) -> None:
    watched.write("many.yaml", *(service(f"s{index}") for index in range(5)))
    watched.poll()
    watched.write("many.yaml", *(service(f"s{index}", 81 if index == 3 else 80) for index in range(1, 6)))

    assert sorted(watched.poll()) == ["+s3", "+s5", "-s0"]


def test_a_half_written_file_is_no_event(watched: Watched) -> None:
    with (watched.directory / "web.yaml").open("w") as file:
        file.write(service("web")[:40])
        file.flush()
        assert watched.settle() == []
        file.write(service("web")[40:])
        file.flush()
        assert watched.settle() == []

    assert watched.poll() == ["+web"]


def test_a_file_that_is_written_again_is_no_event_until_closed(watched: Watched) -> None:
    with (watched.directory / "tomcat.yaml").open("w") as file:
        assert watched.settle() == []
        file.write(service("tomcat", 8081))
        file.flush()
        assert watched.settle() == []

    assert watched.poll() == ["+tomcat"]
    assert watched.ports() == {"tomcat": 8081}


def test_writing_the_same_bytes_again_is_nothing(watched: Watched) -> None:
    watched.write("tomcat.yaml", service("tomcat", 8080))

    assert watched.settle() == []


def test_a_file_moved_into_place_replaces_the_old_one(watched: Watched) -> None:
    watched.write(".new", service("tomcat", 8081))
    (watched.directory / ".new").rename(watched.directory / "tomcat.yaml")

    assert watched.poll() == ["+tomcat"]


def test_a_deleted_file_takes_its_objects_along_once_it_stays_away(watched: Watched) -> None:
    (watched.directory / "tomcat.yaml").unlink()

    assert watched.poll() == []
    assert watched.settle() == ["-tomcat"]


def test_a_renamed_file_is_nothing(watched: Watched) -> None:
    """Not even for a moment are there two."""
    (watched.directory / "tomcat.yaml").rename(watched.directory / "zebra.yaml")

    assert watched.poll() == []
    assert watched.complaints() == []
    assert watched.settle() == []
    assert watched.ports() == {"tomcat": 8080}


def test_a_file_renamed_out_of_sight_is_deleted(watched: Watched) -> None:
    (watched.directory / "tomcat.yaml").rename(watched.directory / "tomcat.off")

    assert watched.settle() == ["-tomcat"]


def test_an_editor_that_moves_the_old_file_away_first_does_not_interrupt(watched: Watched) -> None:
    """As vim does: rename to a backup, write anew, remove the backup; looked at after every step."""
    path = watched.directory / "tomcat.yaml"
    path.rename(watched.directory / "tomcat.yaml~")
    said = watched.poll()
    with path.open("w") as file:
        said += watched.poll()
        file.write(service("tomcat", 8081))
        said += watched.settle()
    said += watched.poll()
    (watched.directory / "tomcat.yaml~").unlink()
    said += watched.settle()

    assert said == ["+tomcat"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_are_read_when_they_appear(watched: Watched, tmp_path: Path, link: object) -> None:
    target = tmp_path / "elsewhere.yaml"
    target.write_text(service("linked"))
    link(target, watched.directory / "linked.yaml")  # type: ignore[operator]

    assert watched.poll() == ["+linked"]


def test_a_mounted_config_map_changes_as_a_whole(tmp_path: Path) -> None:
    """Kubernetes keeps the files behind a link called ..data and swaps that link."""
    for version, port in (("1", 80), ("2", 81)):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "web.yaml").write_text(service("web", port))
    (tmp_path / "..1" / "old.yaml").write_text(service("old"))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("web.yaml", "old.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    watched = Watched(tmp_path)
    watched.start()
    assert watched.ports() == {"web": 80, "old": 80}

    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "old.yaml").unlink()
    said = watched.settle()
    watched.source.close()

    assert sorted(said) == ["+web", "-old"]
    assert watched.ports() == {"web": 81}


def test_one_change_does_not_list_the_directory(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "listdir")
    watched.write("web.yaml", service("web"))

    assert watched.poll() == ["+web"]


def test_lost_events_are_made_up_for(watched: Watched) -> None:
    """When the kernel's queue overflows (16,384 events by default), everything is looked at."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for name in ("x", "y"):
        watched.write(name, "")
    for _ in range(limit // 2 + 10):
        os.utime(watched.directory / "x")
        os.utime(watched.directory / "y")
    watched.write("web.yaml", service("web"))
    (watched.directory / "tomcat.yaml").unlink()

    assert sorted(watched.settle()) == ["+web", "-tomcat"]


def test_a_broken_file_keeps_all_it_said(watched: Watched) -> None:
    watched.write("tomcat.yaml", service("tomcat", 8081), service("web"), "a: b: c\n")

    assert watched.settle() == []
    assert watched.complaints() == [
        "tomcat.yaml:13: not YAML: mapping values are not allowed in this context; what the file said before stays in force"
    ]
    assert watched.ports() == {"tomcat": 8080}

    watched.write("tomcat.yaml", service("tomcat", 8081), service("web"))
    assert watched.poll() == ["+tomcat", "+web"]
    assert watched.complaints() == []


def test_an_object_that_fails_keeps_its_last_good_version_and_disturbs_nothing_else(watched: Watched) -> None:
    watched.write("tomcat.yaml", service("tomcat", 70000), service("web", 81), service("new", "x"))

    assert watched.poll() == ["+web"]
    assert watched.complaints() == [
        "tomcat.yaml:5: spec.ports[0].port: Service shop/tomcat: 70000 is not a port; use 1 to 65535",
        "tomcat.yaml:17: spec.ports[0].port: Service shop/new: expected a whole number, got text",
    ]
    assert watched.ports() == {"tomcat": 8080, "web": 81}

    watched.write("tomcat.yaml", service("web", 81))
    assert watched.poll() == ["-tomcat"]
    assert watched.complaints() == []


def test_ten_thousand_services_with_one_bad(watched: Watched) -> None:
    texts = [f"kind: Service\nmetadata: {{name: s{index}}}\nspec: {{clusterIP: 10.96.0.1}}\n" for index in range(10_000)]
    texts[4711] = texts[4711].replace("10.96.0.1", "10.96.0.1000")
    watched.write("many.yaml", *texts)

    assert len(watched.poll()) == 9_999
    assert watched.complaints() == [
        f"many.yaml:{4 * 4711 + 3}: spec.clusterIP: Service default/s4711: '10.96.0.1000' is not an IP address"
    ]


def test_a_file_that_may_not_be_read_keeps_all_it_said_until_it_may(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission bits do not bind root, as whom tests may run; so open(2) is what refuses."""
    path = watched.directory / "tomcat.yaml"
    really_open = os.open
    refused = {str(path)}

    def open_(name: str, *arguments: int) -> int:
        if name in refused:
            raise PermissionError(13, "Permission denied", name)
        return really_open(name, *arguments)

    monkeypatch.setattr(os, "open", open_)
    path.write_text(service("tomcat", 8081))

    assert watched.settle() == []
    assert watched.complaints() == [
        "tomcat.yaml: kpx may not read it; give the agent's user read permission; what the file said before stays in force"
    ]
    assert watched.ports() == {"tomcat": 8080}

    refused.clear()
    path.chmod(0o644)
    assert watched.poll() == ["+tomcat"]
    assert watched.complaints() == []


def test_what_is_no_file_is_named(watched: Watched) -> None:
    (watched.directory / "dir.yaml").mkdir()
    os.mkfifo(watched.directory / "pipe.yaml")
    (watched.directory / "pipe.yaml").rename(watched.directory / "pipe2.yaml")
    (watched.directory / "self.yaml").symlink_to("self.yaml")
    watched.poll()

    assert watched.complaints() == [
        "dir.yaml: it is a directory; kpx does not look into directories, move its files up",
        "pipe2.yaml: it is not a regular file",
        "self.yaml: Too many levels of symbolic links",
    ]

    (watched.directory / "dir.yaml").rmdir()
    for name in ("pipe2.yaml", "self.yaml"):
        (watched.directory / name).unlink()
    watched.settle()
    assert watched.complaints() == []


def test_of_two_files_with_the_same_object_the_first_by_name_counts(watched: Watched) -> None:
    watched.write("z.yaml", "# the same\n" + service("tomcat", 9999))
    assert watched.poll() == []
    assert watched.complaints() == [
        "z.yaml:2: Service shop/tomcat is also in tomcat.yaml:1, which sorts first and is used; remove one of them"
    ]

    watched.write("a.yaml", service("tomcat", 1111))
    assert watched.poll() == ["+tomcat"]
    assert watched.ports() == {"tomcat": 1111}
    assert len(watched.complaints()) == 2

    for name in ("a.yaml", "tomcat.yaml"):
        (watched.directory / name).unlink()
    assert watched.settle() == ["+tomcat"]
    assert watched.ports() == {"tomcat": 9999}
    assert watched.complaints() == []


def test_of_two_documents_with_the_same_object_the_first_counts(watched: Watched) -> None:
    watched.write("tomcat.yaml", service("tomcat", 8081), service("tomcat", 8082))

    assert watched.poll() == ["+tomcat"]
    assert watched.ports() == {"tomcat": 8081}
    assert watched.complaints() == [
        "tomcat.yaml:7: Service shop/tomcat is also in tomcat.yaml:1, which comes first and is used; remove one of them"
    ]


def test_an_object_that_moves_to_another_file_in_one_go_is_nothing(watched: Watched) -> None:
    watched.write("web.yaml", service("tomcat", 8080))
    (watched.directory / "tomcat.yaml").unlink()

    assert watched.settle() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "directory {} does not exist; create it or give another one with --manifests"),
        ("file", "{} is not a directory; --manifests takes the directory the files are in"),
    ],
)
def test_a_directory_that_is_not_there_at_the_start_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / name)
    source = ManifestSource(path)
    with pytest.raises(SourceError) as raised:
        source.start()
    source.close()
    with pytest.raises(SourceError) as raised_once:
        read_directory(path)

    assert str(raised.value) == str(raised_once.value) == message.format(path)


def vanish(watched: Watched) -> None:
    """See the directory gone: nothing is deleted, and the finding says so."""
    assert watched.poll() == []
    assert watched.ports() == {"tomcat": 8080}
    assert len(watched.findings) == 1
    assert "does not exist" in watched.findings[0]
    assert "the last state stays in force" in watched.findings[0]
    due = watched.source.deadline()
    assert due is not None
    assert due - time.monotonic() <= 1


def test_a_directory_that_is_deleted_keeps_its_last_state_in_force_until_it_is_back(watched: Watched) -> None:
    shutil.rmtree(watched.directory)
    vanish(watched)

    watched.directory.mkdir()
    watched.write("web.yaml", service("web"))
    watched.write("tomcat.yaml", service("tomcat", 8081))
    assert watched.settle() == ["+tomcat", "+web"]
    assert watched.complaints() == []

    watched.write("web.yaml", service("web", 81))
    assert watched.poll() == ["+web"]


def test_a_directory_that_is_moved_away_and_back_is_no_event(watched: Watched) -> None:
    """What happens to it elsewhere does not count."""
    elsewhere = watched.directory.with_name("elsewhere")
    watched.directory.rename(elsewhere)
    vanish(watched)
    (elsewhere / "web.yaml").write_text(service("web"))
    assert watched.poll() == []
    elsewhere.rename(watched.directory)

    assert watched.settle() == ["+web"]
    assert watched.ports() == {"tomcat": 8080, "web": 80}


def test_files_missing_from_a_directory_that_is_back_are_gone(watched: Watched) -> None:
    shutil.rmtree(watched.directory)
    watched.poll()
    watched.directory.mkdir()

    assert watched.settle() == ["-tomcat"]
