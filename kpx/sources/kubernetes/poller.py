"""One epoll around every socket and pipe of the source, so that the agent waits for one descriptor (decision 0001)."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Poller:
    """Descriptors and who is called when they are ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, tuple[int, Callable[[], None]]] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable while any of ours is ready."""
        return self._epoll.fileno()

    def watch(self, descriptor: int, mask: int, ready: Callable[[], None]) -> None:
        """Call `ready` from `dispatch` when `descriptor` is as `mask` says; again changes the mask."""
        before = self._ready.get(descriptor)
        if before is None:
            self._epoll.register(descriptor, mask)
        elif before[0] != mask:
            self._epoll.modify(descriptor, mask)
        self._ready[descriptor] = (mask, ready)

    def forget(self, descriptor: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._ready.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def dispatch(self) -> None:
        """Call for everything that is ready now, without waiting."""
        for descriptor, _ in self._epoll.poll(0):
            # One that was called before may have taken this one away.
            found = self._ready.get(descriptor)
            if found is not None:
                found[1]()

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        self._ready.clear()
        self._epoll.close()
