"""Shortcuts: for each rule a world or a history in which its omission loses a point."""

from dataclasses import dataclass
from typing import Final

from tools.model.history import History, Shape
from tools.model.rules import Rule, Rules
from tools.model.search import sample, search
from tools.model.worlds import WORLDS

_STATES: Final = 60_000
_WALKS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Shortcut:
    """Rules to omit, and how to show that this loses a point."""

    rules: tuple[Rule, ...]
    world: str | None = None
    """Name of a small world, or None for random histories."""
    is_sampled: bool = True
    """Whether the orders of the world are random, which finds most losses sooner."""
    seed: int = 0
    """First seed that is tried."""
    prunes: int = 2
    """Largest number of prunes at once in a history."""
    histories: int = 1000
    """Largest number of histories that are tried."""

    def loss(self) -> str | None:
        """Return the first loss, or None if none was found."""
        rules = Rules(self.rules)
        if self.world is None:
            for seed in range(self.seed, self.seed + self.histories):
                loss = History(seed, rules, Shape(self.prunes)).play().loss
                if loss is not None:
                    return f"seed {seed}: {loss}"
            return None
        setting = WORLDS[self.world]()
        if self.is_sampled:
            return sample(setting, rules, _WALKS, self.seed).loss
        return search(setting, rules, _STATES).loss


SHORTCUTS: Final[tuple[Shortcut, ...]] = (
    Shortcut((Rule.INTENT_FIRST,), "reuse"),
    Shortcut((Rule.INTENT_KNOWN,), "reuse-fault"),
    Shortcut((Rule.LOOK_AFTER_INTENT,), seed=1),
    Shortcut((Rule.AVOID_CONDEMNED,), "condemned-base"),
    Shortcut((Rule.WHOLE_SUBTREE,), seed=159),
    Shortcut((Rule.RESOLVE_BASE,), "condemned-base"),
    Shortcut((Rule.CONDITIONAL_CREATE,)),
    Shortcut((Rule.COMPARE_CONTENT,), "fenced"),
    Shortcut((Rule.CHECK_AFTER_CREATE,), "fenced"),
    Shortcut((Rule.FENCE_BEFORE_ABANDON,), "late-commit", seed=800),
    Shortcut((Rule.RUN_NAMES_COMMIT,), "two-copies"),
    Shortcut((Rule.CANDIDATES_KNOWN,), "lost-candidates"),
    Shortcut((Rule.INTENTS_AFTER_CANDIDATES,), "reuse"),
    Shortcut((Rule.WAIT_FOR_INTENTS,), "reuse"),
    Shortcut((Rule.FENCE_STALE,), "reuse"),
    Shortcut((Rule.FENCE_KNOWN,), "late-commit"),
    Shortcut((Rule.SECOND_MARK,), "reuse"),
    Shortcut((Rule.COUNT_NO_CANDIDATES,), "two-prunes", is_sampled=False),
    Shortcut((Rule.VERDICT_FIRST,), "two-verdicts"),
    Shortcut((Rule.ADOPT_WAITS,), "adopted-writer"),
    Shortcut((Rule.REMEMBER_PACKS,), "reappearing-pack"),
    Shortcut((Rule.REMEMBER_FENCED,), "fenced"),
    Shortcut((Rule.REMEMBER_FORGOTTEN,), "late-manifest"),
    Shortcut((Rule.FINAL_BEFORE_MARK,), "restore", is_sampled=False),
    Shortcut((Rule.FINAL_WINS,), seed=97, prunes=1),
    Shortcut((Rule.UNIQUE_PACKS, Rule.VERIFY_READS), seed=131),
    Shortcut((Rule.PIN_CHECKS_POINT,), "pin", is_sampled=False),
    Shortcut((Rule.PINS_AFTER_FINALS,), "pin", seed=8700),
    Shortcut((Rule.HOLDS_KEEP,), "hold"),
    Shortcut((Rule.HOLD_CHECKS_POINT,), "hold"),
    Shortcut((Rule.HOLD_BY_OWN_CLOCK,), "hold-clock"),
    Shortcut((Rule.HOLD_FROM_SENDING,), "hold-renewal"),
    Shortcut((Rule.RENEW_IN_TIME,), "hold-renewal"),
    Shortcut((Rule.RELOAD_SETTINGS,), "upgrade-old-prune", is_sampled=False),
    Shortcut((Rule.UPGRADE_LOCKS_PINS,), "upgrade-old-pin", is_sampled=False),
)
