"""Requests that are repeated until a reply arrives."""

from tools.model.actor import Actor
from tools.model.requests import UNANSWERED, Create, Delete, Get, Page, Program
from tools.model.rules import Rule
from tools.model.store import Key, Listing, Name, Prefix, Value


def create(actor: Actor, key: Key, value: Value) -> Program[bool]:
    """Create an object; return whether it exists with this value because of this call.

    A retry that is refused may have met an earlier try: the content decides.
    """
    is_retry = False
    while True:
        reply = yield Create(key, value)
        if reply is UNANSWERED:
            is_retry = True
        elif reply or not is_retry:
            return bool(reply)
        elif Rule.COMPARE_CONTENT not in actor.rules:
            return True
        else:
            return (yield from get(key)) == value


def delete(key: Key) -> Program[None]:
    """Delete an object that may be gone."""
    while (yield Delete(key)) is UNANSWERED:
        pass


def get(key: Key) -> Program[Value | None]:
    """Return the value of an object, or None if it does not exist."""
    value: Value | None = yield Get(key)
    return value


def list_all(prefix: Prefix) -> Program[dict[Name, Value]]:
    """Return the objects below a prefix, page by page.

    Each object that exists from the first to the last page is listed.
    """
    objects: dict[Name, Value] = {}
    after: Name | None = None
    while True:
        page: Listing = yield Page(prefix, after)
        objects.update(page.items)
        if page.is_last:
            return objects
        after = page.items[-1][0]
