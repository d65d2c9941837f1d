"""What settings ask of the host (contract section 17): limits are raised and never lowered, and what cannot be set is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kpx.agent.tuning import conntrack_wanted, tune_host, tune_process
from kpx.host import conntrack_sysctls
from kpx.host.conntrack_sysctls import BUCKETS, LIMIT, Wishes, limit, wanted
from kpx.host.oom import set_oom_score_adj
from kpx.settings.config import Config

NETFILTER = "net/netfilter"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sysctls of a host with connection tracking, as the kernel sets them."""
    directory = tmp_path / NETFILTER
    directory.mkdir(parents=True)
    values = {
        "max": 65536, "buckets": 65536, "tcp_timeout_established": 432000, "tcp_timeout_close_wait": 60, "tcp_be_liberal": 0,
        "udp_timeout": 30, "udp_timeout_stream": 120,
    }  # fmt: skip
    for name, value in values.items():
        (directory / f"nf_conntrack_{name}").write_text(f"{value}\n")
    return tmp_path


def values(root: Path) -> dict[str, str]:
    return {path.name.removeprefix("nf_conntrack_"): path.read_text().strip() for path in (root / NETFILTER).iterdir()}


@pytest.mark.parametrize(
    ("wishes", "cores", "flows"),
    [
        (Wishes(per_core=32768, least=131072), 2, 131072),
        (Wishes(per_core=32768, least=131072), 8, 262144),
        (Wishes(per_core=32768, least=131072), 64, 1048576),
        (Wishes(per_core=32768, least=2000000), 64, 2000000),
        (Wishes(per_core=0, least=131072), 8, 0),
    ],
)
def test_limit_is_the_larger_one_and_cores_come_to_a_million(wishes: Wishes, cores: int, flows: int) -> None:
    assert limit(wishes, cores) == flows


def test_limit_is_raised_and_never_lowered() -> None:
    wishes = Wishes(per_core=32768, least=131072)

    assert {one.name: one.value for one in wanted(wishes, 8, 65536, 65536)} == {LIMIT: "262144"}
    assert wanted(wishes, 8, 500000, 131072) == ()


def test_hash_table_grows_with_the_limit_that_holds() -> None:
    wishes = Wishes(per_core=32768)

    assert {one.name: one.value for one in wanted(wishes, 8, 65536, 16384)} == {LIMIT: "262144", BUCKETS: "65536"}
    assert {one.name: one.value for one in wanted(wishes, 8, 1000000, 65536)} == {BUCKETS: "253952"}
    assert all(int(one.value) % conntrack_sysctls.BUCKET_STEP == 0 for one in wanted(Wishes(per_core=1000), 3)[1:])


def test_nothing_is_asked_for_unless_somebody_says_so(root: Path) -> None:
    assert conntrack_wanted(Config(), root) == ()
    before = values(root)
    assert tune_host(Config(), root) == ()
    assert values(root) == before


def test_what_is_asked_for_is_set_once(root: Path) -> None:
    config = Config(
        conntrack_max_per_core=1,
        conntrack_min=300000,
        conntrack_tcp_timeout_established_s=86400,
        conntrack_tcp_timeout_close_wait_s=3600,
        conntrack_tcp_be_liberal=True,
        conntrack_udp_timeout_s=20,
        conntrack_udp_timeout_stream_s=90,
    )

    assert tune_host(config, root) == ()
    assert values(root) == {
        "max": "300000", "buckets": "81920", "tcp_timeout_established": "86400", "tcp_timeout_close_wait": "3600",
        "tcp_be_liberal": "1", "udp_timeout": "20", "udp_timeout_stream": "90",
    }  # fmt: skip
    for path in (root / NETFILTER).iterdir():
        os.utime(path, (1, 1))
    assert tune_host(config, root) == ()
    assert {path.stat().st_mtime for path in (root / NETFILTER).iterdir()} == {1.0}


def test_what_is_not_there_is_said_and_holds_up_nothing(root: Path) -> None:
    """In a network namespace of its own the limit may be missing or read-only; the timeouts are its own."""
    (root / NETFILTER / "nf_conntrack_max").unlink()
    (root / NETFILTER / "nf_conntrack_buckets").unlink()

    findings = tune_host(Config(conntrack_max_per_core=1, conntrack_udp_timeout_s=20), root)

    assert [finding.field for finding in findings] == [LIMIT, BUCKETS]
    assert values(root)["udp_timeout"] == "20"


def test_check_tells_what_would_be_set(root: Path) -> None:
    asked = conntrack_wanted(Config(conntrack_udp_timeout_s=20, conntrack_tcp_timeout_close_wait_s=60), root)

    answer = conntrack_sysctls.check(asked, root)

    assert answer.ok is None
    assert answer.found == "net.netfilter.nf_conntrack_udp_timeout = 30"
    assert answer.remedy == "nothing: kpx run sets them; or sysctl -w net.netfilter.nf_conntrack_udp_timeout=20"
    tune_host(Config(conntrack_udp_timeout_s=20), root)
    assert conntrack_sysctls.check(asked, root).ok is True


def test_score_is_written_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "self/oom_score_adj"
    path.parent.mkdir()
    path.write_text("0\n")

    assert set_oom_score_adj(-999, tmp_path) == ""
    assert path.read_text() == "-999\n"
    os.utime(path, (1, 1))
    assert set_oom_score_adj(-999, tmp_path) == ""
    assert path.stat().st_mtime == 1


def test_score_that_cannot_be_set_is_said(tmp_path: Path) -> None:
    assert set_oom_score_adj(5, tmp_path).startswith(
        f"{tmp_path}/self/oom_score_adj cannot be set to 5 (No such file or directory): "
    )


def test_score_of_this_process_is_left_alone_unless_asked_for() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()

    assert tune_process(Config()) == ()
    assert Path("/proc/self/oom_score_adj").read_text() == before
