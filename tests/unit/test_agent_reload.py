"""Settings that change while the agent runs: noticed however the file is replaced, taken over where that can be, else refused."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from test_agent_loop import EVENTS, World

from kpx.agent.handover import Handover
from kpx.agent.reload import LIVE, LiveSettings
from kpx.agent.tending import Tending
from kpx.errors import RestartNeeded
from kpx.settings.config import SETTINGS, Config
from kpx.settings.layers import Layers, Loaded
from tests.lab.memory_source import MemorySource

HEADER = "apiVersion: kpx.io/v1alpha1\nkind: KpxConfiguration\n"
THEIRS = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
LONG_S = 10.0


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Leave the loggers of kpx as other tests expect them: unconfigured."""
    root = logging.getLogger("kpx")
    before = (root.handlers[:], root.propagate, root.level)
    yield
    root.handlers[:], root.propagate = before[0], before[1]
    root.setLevel(before[2])


class Watched:
    """A file with settings and the agent's view of it."""

    def __init__(self, directory: Path, text: str = "verbosity: 0\n") -> None:
        self.path = directory / "kpx.yaml"
        self.path.write_text(HEADER + text)
        layers = Layers({"cluster_cidr": "10.244.0.0/16"}, str(self.path))
        self.live = LiveSettings(layers.load(), layers)
        self.told: list[Config] = []
        self.live.follow(self.told.append)
        self.descriptor = self.live.open()

    def write(self, text: str) -> None:
        self.path.write_text(HEADER + text)

    def wait(self, until: Callable[[], bool]) -> None:
        """Poll as the loop does, each time there is something to read, until a condition holds."""
        while not until():
            assert select.select([self.descriptor], [], [], LONG_S)[0], "nothing was noticed"
            self.live.poll()

    def quiet(self) -> bool:
        """Tell whether there is nothing left to look at."""
        while select.select([self.descriptor], [], [], 0)[0]:
            self.live.poll()
        return True


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    one = Watched(tmp_path)
    with closing(one.live):
        yield one


def test_every_setting_that_is_live_exists() -> None:
    assert {setting.field for setting in SETTINGS} >= LIVE


def test_what_is_written_is_in_force(watched: Watched) -> None:
    watched.write("drainTimeout: 5m\nverbosity: 4\n")
    watched.wait(lambda: watched.live.config.drain_timeout_s == 300)

    assert watched.told == [watched.live.config]
    assert watched.live.config.cluster_cidr == ("10.244.0.0/16",)
    assert logging.getLogger("kpx").level == logging.DEBUG


def test_what_says_the_same_as_before_is_no_news(watched: Watched) -> None:
    watched.write("verbosity: 0\n# only a comment is new\n")

    assert watched.quiet()
    assert watched.told == []


def test_file_that_is_renamed_into_place_is_noticed(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / ".new").write_text(f"{HEADER}verbosity: 3\n")
    (tmp_path / ".new").rename(watched.path)

    watched.wait(lambda: watched.live.config.verbosity == 3)


def test_volume_of_a_config_map_is_noticed(tmp_path: Path) -> None:
    """The kubelet swaps `..data`, a link to a directory of its own, by a rename; the file itself never changes."""
    for name, verbosity in (("..1", 1), ("..2", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kpx.yaml").write_text(f"{HEADER}verbosity: {verbosity}\n")
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "kpx.yaml"
    path.symlink_to("..data/kpx.yaml")
    layers = Layers({}, str(path))
    with closing(LiveSettings(layers.load(), layers)) as live:
        descriptor = live.open()
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        while live.config.verbosity != 2:
            assert select.select([descriptor], [], [], LONG_S)[0]
            live.poll()


def test_file_that_is_wrong_changes_nothing_until_it_is_right(watched: Watched) -> None:
    before = watched.live.config
    watched.write("verbosity: 4\nsyncPeriod: soon\n")
    watched.wait(lambda: bool(watched.live.findings))

    assert watched.live.config == before
    assert [str(finding) for finding in watched.live.findings] == [
        f"{watched.path}:4: syncPeriod: 'soon' is not a duration; write seconds or something like 1m30s; "
        "the settings stay as they were"
    ]
    told = len(watched.told)
    watched.live.reread()
    assert len(watched.told) == told, "the same complaint twice"
    watched.write("verbosity: 2\n")
    watched.wait(lambda: watched.live.config.verbosity == 2)
    assert watched.live.findings == ()


def test_what_is_odd_in_the_file_in_force_stays_said_beside_what_is_wrong_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"{THEIRS}modus: ipvs\n")
    layers = Layers({}, str(path))
    with closing(LiveSettings(layers.load(), layers)) as live:
        odd = live.findings
        path.write_text(f"{THEIRS}mode: [ipvs]\n")
        live.reread()

        assert (len(odd), live.findings[:-1]) == (1, odd)
        assert live.findings[-1].message == "mode: expected text, got a list; the settings stay as they were"
        path.write_text(THEIRS)
        live.reread()
        assert live.findings == ()


def test_file_that_is_gone_leaves_everything(watched: Watched) -> None:
    before = watched.live.config
    watched.path.unlink()

    assert watched.quiet()
    assert (watched.live.config, watched.live.findings) == (before, ())
    watched.live.reread()
    assert [finding.message for finding in watched.live.findings] == [
        "there is no such file; give another one with --config; the settings stay as they were"
    ]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("proxyMode: nftables\n", "--proxy-mode"), ("manifests: /elsewhere\n", "--manifests"),
        ("markBits: 0xC000\n", "--mark-bits"), ("metricsBindAddress: ''\n", "--metrics-bind-address"),
        ("hostnameOverride: n2\n", "--hostname-override"),
    ],
)  # fmt: skip
def test_what_a_running_agent_cannot_change_takes_a_new_start(watched: Watched, text: str, option: str) -> None:
    before = watched.live.config
    watched.write(f"verbosity: 4\n{text}")

    with pytest.raises(RestartNeeded, match=f"^{option} in .* changed, which takes a new start; forwarding stays$") as caught:
        watched.wait(lambda: False)
    assert caught.value.exit_code == 3
    assert watched.live.config == before


def test_sighup_reads_the_file_whatever_happened(watched: Watched) -> None:
    watched.live.close()
    watched.write("verbosity: 1\n")
    watched.live.reread()

    assert watched.live.config.verbosity == 1


def test_without_a_file_there_is_nothing_to_watch() -> None:
    with closing(LiveSettings(Loaded(Config()))) as live:
        assert live.open() is None
        live.reread()
        live.poll()

        assert live.config == Config()


def test_file_that_cannot_be_watched_is_said_and_read_again_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The directory goes away between reading and watching."""
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "kpx.yaml"
    path.write_text(HEADER)
    layers = Layers({}, str(path))
    with closing(LiveSettings(layers.load(), layers)) as live:
        path.unlink()
        directory.rmdir()
        assert live.open() is None
        assert [record.message for record in caplog.records] == [
            "changes of settings are not noticed; send SIGHUP after a change"
        ]
        directory.mkdir()
        path.write_text(f"{HEADER}verbosity: 3\n")
        live.reread()

        assert live.config.verbosity == 3


@pytest.fixture
def world(watched: Watched) -> Iterator[World]:
    """A running agent that goes by the file."""
    with ExitStack() as stack:
        one = World(stack, settings=watched.live)
        one.agent.start()
        yield one


def test_agent_goes_by_what_is_written(watched: Watched, world: World) -> None:
    assert not world.engine.facts.masquerade_all
    watched.write("masqueradeAll: true\nsyncPeriod: 60s\n")
    world.step_until(lambda: world.engine.facts.masquerade_all)

    assert world.health.livez().status == 200
    assert world.backends() == ["10.244.2.1:8080"]


def test_other_sync_period_moves_the_next_audit_but_not_before_the_first_sync(world: World) -> None:
    """Looking at what others touched means nothing before there is something of ours."""
    begun = Tending(world.engine, Handover("memory", {}), 1000.0, lambda touches: None)
    begun.begin()
    begun.audit_every(0.001)
    due = begun.deadline()
    waiting = Tending(world.engine, Handover("memory", {}), 1000.0, lambda touches: None)
    waiting.audit_every(0.001)

    assert due is not None
    assert due < time.monotonic() + 100
    assert waiting.deadline() is None


def test_agent_says_what_is_wrong_with_the_file_and_when_it_is_right(
    watched: Watched, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kpx.agent.status")
    watched.write("masqueradeAll: perhaps\n")
    world.step_until(lambda: bool(caplog.records))
    complaint = f"{watched.path}:3: masqueradeAll: expected true or false, got text; the settings stay as they were"
    assert [record.message for record in caplog.records] == [complaint]
    watched.write("verbosity: 0\n")
    world.step_until(lambda: len(caplog.records) > 1)

    assert caplog.records[1].message == f"no longer: {complaint}"


def test_sighup_reads_settings_too(watched: Watched, world: World) -> None:
    world.next_sources = [MemorySource(*EVENTS)]
    watched.live.close()
    watched.write("masqueradeAll: true\n")
    os.kill(os.getpid(), signal.SIGHUP)

    world.step_until(lambda: world.engine.facts.masquerade_all)


def test_agent_ends_for_what_it_cannot_change_and_leaves_the_kernel(watched: Watched, world: World) -> None:
    held = {table: dict(rows) for table, rows in world.dataplane.kernel.items()}
    watched.write("proxyMode: nftables\n")

    with pytest.raises(RestartNeeded):
        world.step_until(lambda: False)
    assert world.dataplane.kernel == held


def test_notes_of_the_file_are_logged_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"{THEIRS}configSyncPeriod: 15m\n")
    layers = Layers({}, str(path))
    with caplog.at_level(logging.INFO, "kpx.agent.reload"):
        LiveSettings(layers.load(), layers).close()

    assert caplog.records[0].message == (
        f"{path}:3: configSyncPeriod: not needed, kpx does not go through all objects again; it watches, and audits the kernel"
    )
