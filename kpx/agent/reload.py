"""
Settings while the agent runs: the file changes, and what can change with it does (16.7).

Most settings are looked up when they are needed and simply hold from then on. Some are built into what runs (which data plane,
where Services come from, where HTTP is served); those end the process, since a supervisor starts it again and forwarding does not
mind.
A file that is wrong changes nothing until it is right.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from kpx import log
from kpx.errors import ConfigError, RestartNeeded, SourceError
from kpx.model.findings import Finding
from kpx.settings.config import SETTINGS, Config
from kpx.settings.layers import Layers, Loaded
from kpx.sources.inotify import Changes, DirectoryWatch

logger = logging.getLogger(__name__)

LIVE: Final = frozenset(
    (
        "bind_address", "cluster_cidr", "detect_local_mode", "pod_bridge_interface", "pod_interface_name_prefix",
        "masquerade_all", "nodeport_addresses", "external_ip_ranges", "answer_ping", "drop_invalid", "accept_forwarded",
        "ipvs_scheduler", "ipvs_strict_arp", "ipvs_run_estimation", "ipvs_tcp_timeout_s",
        "ipvs_tcpfin_timeout_s", "ipvs_udp_timeout_s", "drain_timeout_s", "drain_grace_s", "bind_address_hard_fail",
        "conntrack_max_per_core", "conntrack_min", "conntrack_tcp_timeout_established_s", "conntrack_tcp_timeout_close_wait_s",
        "conntrack_tcp_be_liberal", "conntrack_udp_timeout_s", "conntrack_udp_timeout_stream_s", "oom_score_adj",
        "min_sync_period_s", "sync_period_s", "log_format", "verbosity",
    )
)  # fmt: skip
"""Fields that a running agent can take other values of; all others need a new start."""


class LiveSettings:
    """
    The settings in force, and the watch on their file; used from one thread.

    Args:
        loaded: what is in force at first.
        layers: to read them again; None when they cannot change.

    Attributes:
        config: what is in force.
        findings: what is wrong with the file now.
    """

    def __init__(self, loaded: Loaded, layers: Layers | None = None) -> None:
        self.config = loaded.config
        self.findings = loaded.findings
        self._findings_in_force = loaded.findings
        self._layers = layers
        self._followers: list[Callable[[Config], None]] = []
        self._watch = DirectoryWatch(os.path.dirname(layers.path) or ".") if layers and layers.path else None
        for note in loaded.notes:
            log.event(logger, logging.INFO, note)

    def open(self) -> int | None:
        """
        Begin to watch the file, from here on or again.

        Returns:
            The descriptor that becomes readable when something happened to it. None without a file, and where it cannot be
            watched; then SIGHUP still works and a line says so.
        """
        if self._watch is None:
            return None
        try:
            self._watch.arm()
            return self._watch.fileno()
        except (OSError, SourceError) as error:
            log.event(logger, logging.WARNING, "changes of settings are not noticed; send SIGHUP after a change", why=error)
            return None

    def close(self) -> None:
        """Stop watching; idempotent."""
        if self._watch is not None:
            self._watch.close()

    def follow(self, follower: Callable[[Config], None]) -> None:
        """Call this with the settings whenever others, or another finding, are in force."""
        self._followers.append(follower)

    def poll(self) -> None:
        """
        Look at what happened, and read the file if it may be another one now.

        Raises:
            RestartNeeded: it asks for what a running agent cannot change.
        """
        if self._watch is not None and self._layers is not None and self._concerns(self._watch.changes()):
            self.reread()

    def reread(self) -> None:
        """Read the file whatever happened; raises as `poll` does."""
        if self._layers is None or not self._layers.path:
            return
        try:
            loaded = self._layers.load()
        except ConfigError as error:
            where, _, problem = str(error).partition(": ")
            complaint = Finding(where, "", f"{problem}; the settings stay as they were")
            loaded = Loaded(self.config, (*self._findings_in_force, complaint))
        else:
            self._findings_in_force = loaded.findings
        if (loaded.config, loaded.findings) == (self.config, self.findings):
            return
        changed = [one for one in SETTINGS if getattr(loaded.config, one.field) != getattr(self.config, one.field)]
        if stuck := [one.option for one in changed if one.field not in LIVE]:
            raise RestartNeeded(f"{', '.join(stuck)} in {self._layers.path} changed, which takes a new start; forwarding stays")
        self.config, self.findings = loaded.config, loaded.findings
        if changed:
            log.setup(loaded.config.log_format, loaded.config.verbosity)
            for note in loaded.notes:
                log.event(logger, logging.DEBUG, note)
            told = {one.key: one.written(getattr(loaded.config, one.field)) or "none" for one in changed}
            log.event(logger, logging.INFO, "settings changed", **told)
        for follower in self._followers:
            follower(self.config)

    def _concerns(self, changes: Changes) -> bool:
        """Tell whether the file may be another one; when it is gone, its writer may be about to put the next one there."""
        assert self._layers is not None
        if changes.gone:
            self.open()
            return True
        return changes.unsure or os.path.basename(self._layers.path) in changes.written | changes.touched
