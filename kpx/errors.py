"""
Every error kpx raises, named by who must act on it.

The docstring of a class is its default message. `exit_code` is what a command that dies of it returns: 2 and up is
trouble, 1 is reserved for "there are differences" (diff(1)). Pure rooms do not raise for bad input: they return
`kpx.model.findings.Finding`s; these classes belong to the rooms that do I/O.
"""

from __future__ import annotations


class KpxError(Exception):
    """kpx cannot go on."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigError(KpxError):
    """A setting is wrong."""


class SourceError(KpxError):
    """The source of Services and EndpointSlices cannot be read."""


class AlreadyRunning(KpxError):
    """Another kpx agent serves this network namespace."""

    exit_code = 3


class RestartNeeded(KpxError):
    """Settings changed that a running agent cannot change."""

    exit_code = 3


class CapabilityError(KpxError):
    """This host lacks something kpx needs."""

    exit_code = 4


class KernelError(KpxError):
    """
    The kernel refused an operation.

    Args:
        operation: what was asked, in words ("add element ip kpx frontends { ... }").
        errno: the positive errno; beyond 4095 a number of the kernel's subsystem, whose meaning is `text`.
        text: the kernel's own extended-ack message, if it sent one.
    """

    exit_code = 5

    def __init__(self, operation: str, errno: int, text: str = "") -> None:
        import os

        self.operation = operation
        self.errno = errno
        self.text = text
        if errno > 4095 and text:
            super().__init__(f"{operation}: {text}")
            return
        detail = f" ({text})" if text else ""
        super().__init__(f"{operation}: {os.strerror(errno)}{detail}")


class PermissionDenied(KernelError):
    """The process lacks CAP_NET_ADMIN in this network namespace."""

    exit_code = 4


class NoAnswer(KernelError):
    """An answer of the kernel did not come, or not whole; what was asked may have taken effect."""
