"""An answer of the kernel that is not laid out as it should be is an error of the kernel's, and no end of the agent."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator

from kpx.errors import NoAnswer


@contextlib.contextmanager
def legible(what: str) -> Iterator[None]:
    """
    Take what cannot be read for no answer; also a decorator.

    Args:
        what: was asked for, in words.

    Raises:
        NoAnswer: attributes are missing, are cut or hold something else.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, struct.error) as error:
        raise NoAnswer(what, errno.EBADMSG, f"the answer is not laid out as expected: {error!r}") from error
