"""Names of things: objects, service ports, protocols; how they sort and print."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple


class Protocol(enum.IntEnum):
    """A transport protocol a Service may use; the value is its IP protocol number."""

    TCP = 6
    UDP = 17
    SCTP = 132

    def __str__(self) -> str:
        return self.name


_PORT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def is_port_name(text: str) -> bool:
    """Tell whether a port may be called so; the API takes less (pkg/apis/core/validation, ValidateServicePortName)."""
    return not text or _PORT_NAME.fullmatch(text) is not None


class ObjectName(NamedTuple):
    """A namespaced object; prints as `namespace/name`, cluster-scoped ones have namespace ""."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class PortName(NamedTuple):
    """A service port, the unit of programming (J1); prints as `namespace/name:port/TCP`."""

    service: ObjectName
    port: str
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.service}:{self.port}/{self.protocol}" if self.port else f"{self.service}/{self.protocol}"
