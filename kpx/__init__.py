"""
kpx: Services and EndpointSlices in, kernel rows out.

The names below are the public API (docs/api.md): the same functions the command line is made of. They are imported when
first used, so that `import kpx` costs nothing and `kpx --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpx.api import (
        Manifests,
        apply,
        cleanup,
        compile,
        diff,
        explain,
        host_addresses,
        node_facts,
        observe,
        open_dataplane,
        packet,
        read_manifests,
        render,
    )
    from kpx.errors import KpxError
    from kpx.policy.story import Packet

__version__ = "0.1.0"

__all__ = [
    "KpxError",
    "Manifests",
    "Packet",
    "__version__",
    "apply",
    "cleanup",
    "compile",
    "diff",
    "explain",
    "host_addresses",
    "node_facts",
    "observe",
    "open_dataplane",
    "packet",
    "read_manifests",
    "render",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'kpx' has no attribute {name!r}")
    module = {"KpxError": "kpx.errors", "Packet": "kpx.policy.story"}.get(name, "kpx.api")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
