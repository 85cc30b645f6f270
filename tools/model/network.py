"""The network of the model: requests that arrive late, twice or never, and lost replies."""

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tools.model.requests import UNANSWERED, Create, Get, Mutation, Page
from tools.model.store import Store


class Fate(Enum):
    """Fate of a request that changes the store."""

    ANSWERED = "answered"
    REPLY_LOST = "reply lost"
    """It has its effect, and the program does not learn of it."""
    DELAYED = "delayed"
    """It has its effect later, perhaps after its program has ended."""
    LOST = "lost"
    COPIED = "copied"
    """It is answered, and arrives once more later."""


FAULTS = (Fate.REPLY_LOST, Fate.DELAYED, Fate.LOST, Fate.COPIED)


@dataclass(slots=True)
class Network:
    """Delivers requests to the store, and keeps those that arrive later."""

    store: Store
    page_items: int = 1000
    """Number of objects in one page of a listing."""
    late: list[Mutation] = field(default_factory=list)

    def read(self, request: Get | Page) -> Any:
        if isinstance(request, Get):
            return self.store.get(request.key)
        return self.store.page(request.prefix, request.after, self.page_items)

    def change(self, request: Mutation, fate: Fate) -> Any:
        """Send a request and return its reply, or UNANSWERED."""
        if fate in (Fate.DELAYED, Fate.COPIED):
            self.late.append(request)
        if fate in (Fate.DELAYED, Fate.LOST):
            return UNANSWERED
        reply = self._apply(request)
        return UNANSWERED if fate is Fate.REPLY_LOST else reply

    def deliver(self, index: int, *, stays: bool = False) -> Mutation:
        """Deliver a late request; if it *stays*, it arrives once more."""
        request = self.late[index] if stays else self.late.pop(index)
        self._apply(request)
        return request

    def _apply(self, request: Mutation) -> Any:
        if isinstance(request, Create):
            return self.store.create(request.key, request.value)
        return self.store.delete(request.key)


def random_fate(rnd: random.Random, faults: float) -> Fate:
    """Return the fate of a request; *faults* is the probability of a fault."""
    return rnd.choice(FAULTS) if rnd.random() < faults else Fate.ANSWERED
