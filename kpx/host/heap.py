"""The memory this process holds and does not use."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """
    Return freed memory to the kernel, where the C library can (malloc_trim(3) of glibc); others keep what they have.

    Worth it after a first sync, which frees as much as it keeps: the C library returns the end of its heap only.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
