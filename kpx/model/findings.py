"""What is wrong with an input, said as a value: pure rooms return these instead of raising or logging."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Severity(enum.Enum):
    """How much a finding matters: an error means the object or part of it is not in force, a warning that it is."""

    ERROR = "error"
    WARNING = "warning"


class Finding(NamedTuple):
    """
    One clear line about one object: where, what, and what to do.

    Args:
        where: `file:line`, `file (document 3)` or, without a file, the object's kind and name.
        field: path inside the object (`spec.ports[0].port`), "" when the whole object is meant.
        message: what is wrong and what to do, one line.
        severity: whether anything is out of force because of it.
    """

    where: str
    field: str
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        field = f" {self.field}:" if self.field else ""
        return f"{self.where}:{field} {self.message}"
