"""Lists, with paging: every page of a list is of the moment the first was."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_answers import Continuation, continuation
from tests.lab.apiserver_kinds import Manifest, Resource, Stored
from tests.lab.apiserver_selectors import Selector
from tests.lab.apiserver_store import Key, Store


def page_of(store: Store, resource: Resource, namespace: str, query: Mapping[str, str], selector: Selector) -> Manifest:
    """
    Return one page of a list.

    A limit is not heeded with resourceVersion 0, which the cache of a real server answers.

    Raises:
        Refusal: the resourceVersion is too old or too new, or the token is none.
    """
    asked, token = query.get("resourceVersion", ""), query.get("continue", "")
    limit = 0 if asked == "0" else int(query.get("limit", 0))
    with store.changed:
        at, after = _moment(store, asked, query.get("resourceVersionMatch", ""), token, namespace)
        items: list[Stored] = []
        last: Key | None = None
        rest = store.objects(resource, at, after)
        for key, found in rest:
            if selector(found):
                if limit and len(items) == limit:
                    break
                items.append(found)
                last = key
        else:
            return answers.listed(resource, at, items)
        assert last is not None
        selective = any(query.get(name) for name in ("labelSelector", "fieldSelector"))
        # The one that did not fit any more, and those behind it.
        remaining = 0 if selective else 1 + sum(1 for _, found in rest if selector(found))
        return answers.listed(resource, at, items, Continuation(at, last).token(namespace), remaining)


def _moment(store: Store, asked: str, match: str, token: str, namespace: str) -> tuple[int, Key | None]:
    """Return as of which revision to list, and from behind which key on."""
    if token:
        going_on = continuation(token, namespace)
        if going_on.revision < 0:
            return store.revision, going_on.after
        if going_on.revision < store.compacted:
            raise answers.too_old_continue(going_on._replace(revision=-1).token(namespace))
        return going_on.revision, going_on.after
    wanted = int(asked or 0)
    if wanted > store.revision:
        raise answers.too_large(wanted, store.revision)
    if match == "Exact":
        if wanted < store.compacted:
            raise answers.too_old(wanted, store.compacted)
        return wanted, None
    return store.revision, None
