"""`--config` on the command line: every verb takes it, `kpx run` writes it, and `--init-only` prepares a host."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from kpx.cli import VERBS, main
from kpx.settings.config import SETTINGS
from kpx.settings.layers import Layers

DATA = Path(__file__).parents[1] / "data" / "kube-proxy"
THEIRS = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
TAKE_SETTINGS = [verb for verb in VERBS if verb not in ("completion", "migrate")]
EXAMPLES = {"get": ("rows",), "explain": ("10.96.0.1:80",)}


def kpx(*arguments: str, **environment: str) -> Result:
    result = CliRunner(env=environment).invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Leave the loggers of kpx as other tests expect them: unconfigured."""
    root = logging.getLogger("kpx")
    before = (root.handlers[:], root.propagate, root.level)
    yield
    root.handlers[:], root.propagate = before[0], before[1]
    root.setLevel(before[2])


@pytest.mark.parametrize("verb", TAKE_SETTINGS)
def test_verb_reads_the_file_before_anything_else(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"{THEIRS}conntrack:\n  min: -1\n")

    by_option = kpx(verb, *EXAMPLES.get(verb, ()), "--config", str(path))
    by_variable = kpx(verb, *EXAMPLES.get(verb, ()), KPX_CONFIG=str(path))

    assert by_option.exit_code == by_variable.exit_code == 2
    assert by_option.stderr == by_variable.stderr
    assert (
        by_option.stderr == f"kpx: error: {path}:4: conntrack.min: -1 is out of range; it must be 0 or more, at most 2147483647\n"
    )


def test_verb_that_reads_has_no_use_for_most_and_works(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "web.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}"
    )
    path = tmp_path / "kpx.yaml"
    path.write_text(
        f"apiVersion: kpx.io/v1alpha1\nkind: KpxConfiguration\nmanifests: {manifests}\nproxyMode: nftables\n"
        "conntrackMin: 5\noomScoreAdj: -999\nverbosity: 9\n"
    )

    result = kpx("explain", "10.96.0.9:80", "--offline", "--config", str(path))

    assert result.exit_code == 0
    assert "Verdict: reject" in result.stdout
    assert result.stderr == ""


def test_fields_that_do_not_exist_are_a_warning_for_verbs_that_read(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"{THEIRS}modus: ipvs\nmode: nftables\n")

    result = kpx("explain", "10.96.0.9:80", "--offline", "--config", str(path), "--manifests", str(tmp_path))

    assert result.stderr.splitlines()[0] == f"kpx: warning: {path}:3: modus: there is no such field; ignored"


def test_settings_are_written_as_all_layers_have_them(tmp_path: Path) -> None:
    target = tmp_path / "kpx.yaml"

    result = kpx(
        "run", "--config", str(DATA / "ipvs.yaml"), "--verbosity", "2", "--write-config-to", str(target), KPX_MARK_BITS="0xC000"
    )

    assert (result.exit_code, result.stdout) == (0, "")
    document = yaml.safe_load(target.read_text())
    assert (document["verbosity"], document["markBits"], document["ipvsScheduler"]) == (2, "0xc000", "wlc")
    assert set(document) == {"apiVersion", "kind", *(setting.key for setting in SETTINGS)}
    meant = Layers({"verbosity": 2, "mark_bits": 0xC000}, str(DATA / "ipvs.yaml")).load().config
    assert Layers({}, str(target)).load().config == meant


def test_settings_are_written_to_stdout_too() -> None:
    assert yaml.safe_load(kpx("run", "--write-config-to", "-").stdout)["syncPeriod"] == "30s"


def test_settings_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    result = kpx("run", "--write-config-to", str(tmp_path / "no" / "such"))

    assert result.exit_code == 2
    assert result.stderr == f"kpx: error: --write-config-to: {tmp_path}/no/such cannot be written (No such file or directory)\n"


def test_init_only_needs_no_source_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nftables and no wish there is nothing to set, so this may run anywhere (16.8)."""
    monkeypatch.delenv("KPX_MANIFESTS", raising=False)

    result = kpx("run", "--init-only", "--proxy-mode", "nftables")

    assert result.exit_code == 0
    assert "this host is prepared" in result.stderr


def test_run_says_what_is_ignored_before_it_begins(tmp_path: Path) -> None:
    """The source is what stops it here; by then every field has been named."""
    path = tmp_path / "config.conf"
    path.write_text(f"{THEIRS}configSyncPeriod: 15m\nclientConnection: {{qps: 50}}\n")

    result = kpx("run", "--config", str(path), "--manifests", str(tmp_path / "none"), "--proxy-mode", "nftables")

    assert result.exit_code != 0
    assert f"{path}:3: configSyncPeriod: not needed" in result.stderr
    assert f"{path}:4: clientConnection.qps: not needed" in result.stderr
