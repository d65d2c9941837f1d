"""
Where settings come from: command line, then environment, then a file, then defaults; the first that says something counts.

kube-proxy lets a file beat nearly all flags. Here it is the other way round, as with most programs: what somebody typed is what
they want now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from kpx.errors import ConfigError
from kpx.model.findings import Finding
from kpx.settings.config import SETTINGS, Config, make_config
from kpx.settings.config_file import ConfigFile, read_config_file
from kpx.settings.setting import SettingError

HIDDEN: Final = {
    "manifests": frozenset(("kubeconfig", "master")),
    "kubeconfig": frozenset(("manifests", "master")),
    "master": frozenset(("manifests",)),
}
"""
Fields that say where Services come from, and those in the file that do not count when one is given outside of it: whoever types
--manifests does not mean the cluster of the file. An address alone goes with the credentials of the file.
"""

FIELDS: Final = {setting.option: setting.field for setting in SETTINGS}


class Loaded(NamedTuple):
    """
    The settings all layers come to.

    Args:
        findings, notes: of the file, see `ConfigFile`.
    """

    config: Config
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


class Layers:
    """
    The layers of this process; `load` looks at the file again each time.

    Args:
        given: what command line and environment say, by field of `Config`; None for what they do not say.
        path: of the file, "" for none.
    """

    def __init__(self, given: Mapping[str, object], path: str = "") -> None:
        self.path = path
        self._given = {field: value for field, value in given.items() if value is not None}

    def load(self) -> Loaded:
        """
        Return the settings as they are now.

        Raises:
            ConfigError: a value is wrong, or the file cannot be read; the message names the option, or file, line and field.
        """
        if not self.path:
            return Loaded(make_config(self._given))
        file = read_config_file(self.path)
        return Loaded(self.over(file), file.findings, file.notes)

    def over(self, file: ConfigFile) -> Config:
        """Return what these layers and a file come to; raises as `load` does."""
        hidden = frozenset[str]().union(*(others for field, others in HIDDEN.items() if self._given.get(field)))
        below = {field: value for field, value in file.values.items() if field not in hidden}
        try:
            return make_config({**below, **self._given})
        except SettingError as error:
            field = FIELDS.get(error.option, "")
            if field in file.origins and field not in self._given:
                raise ConfigError(f"{file.origins[field]} {error.problem}") from error
            raise
