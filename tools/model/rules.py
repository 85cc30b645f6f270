"""The rules of the protocol, each of which the model can omit to show that it is needed."""

from collections.abc import Collection
from enum import StrEnum
from typing import Final


class Rule(StrEnum):
    """Name of a rule, as `--without` takes it."""

    INTENT_FIRST = "intent-first"
    INTENT_KNOWN = "intent-known"
    LOOK_AFTER_INTENT = "look-after-intent"
    AVOID_CONDEMNED = "avoid-condemned"
    WHOLE_SUBTREE = "whole-subtree"
    RESOLVE_BASE = "resolve-base"
    CONDITIONAL_CREATE = "conditional-create"
    COMPARE_CONTENT = "compare-content"
    CHECK_AFTER_CREATE = "check-after-create"
    FENCE_BEFORE_ABANDON = "fence-before-abandon"
    RUN_NAMES_COMMIT = "run-names-commit"
    CANDIDATES_KNOWN = "candidates-known"
    INTENTS_AFTER_CANDIDATES = "intents-after-candidates"
    WAIT_FOR_INTENTS = "wait-for-intents"
    FENCE_STALE = "fence-stale"
    FENCE_KNOWN = "fence-known"
    SECOND_MARK = "second-mark"
    COUNT_NO_CANDIDATES = "count-no-candidates"
    VERDICT_FIRST = "verdict-first"
    ADOPT_WAITS = "adopt-waits"
    REMEMBER_PACKS = "remember-packs"
    REMEMBER_FENCED = "remember-fenced"
    REMEMBER_FORGOTTEN = "remember-forgotten"
    FINAL_BEFORE_MARK = "final-before-mark"
    FINAL_WINS = "final-wins"
    UNIQUE_PACKS = "unique-packs"
    PIN_CHECKS_POINT = "pin-checks-point"
    PINS_AFTER_FINALS = "pins-after-finals"
    HOLDS_KEEP = "holds-keep"
    HOLD_CHECKS_POINT = "hold-checks-point"
    HOLD_BY_OWN_CLOCK = "hold-by-own-clock"
    HOLD_FROM_SENDING = "hold-from-sending"
    RENEW_IN_TIME = "renew-in-time"
    VERIFY_READS = "verify-reads"
    RELOAD_SETTINGS = "reload-settings"
    UPGRADE_LOCKS_PINS = "upgrade-locks-pins"


ABOUT: Final[dict[Rule, str]] = {
    Rule.INTENT_FIRST: "a writer creates its intent before it lists anything",
    Rule.INTENT_KNOWN: "a writer waits for the reply to the create of its intent",
    Rule.LOOK_AFTER_INTENT: "a writer lists prunes and points after its intent, whatever it knows",
    Rule.AVOID_CONDEMNED: "a writer does not use packs that a prune has condemned",
    Rule.WHOLE_SUBTREE: "a writer uses a node only if its whole subtree is present",
    Rule.RESOLVE_BASE: "a writer looks up every object of its base",
    Rule.CONDITIONAL_CREATE: "the server refuses a create if the name exists",
    Rule.COMPARE_CONTENT: "a refused retry counts as success only if the content is equal",
    Rule.CHECK_AFTER_CREATE: "a create is acknowledged after the verdicts were read once more",
    Rule.FENCE_BEFORE_ABANDON: "a writer without a reply to its commit fences itself to give up",
    Rule.RUN_NAMES_COMMIT: "intent and commit have a name that only one run uses, also in a copy",
    Rule.CANDIDATES_KNOWN: "a prune waits for the reply to the create of its candidates",
    Rule.INTENTS_AFTER_CANDIDATES: "a prune lists the intents after its candidates exist",
    Rule.WAIT_FOR_INTENTS: "a prune waits until the listed intents are gone",
    Rule.FENCE_STALE: "a prune fences a stale run with a tombstone before it drops the intent",
    Rule.FENCE_KNOWN: "a prune waits for the reply to the create of a tombstone",
    Rule.SECOND_MARK: "a prune marks again before its verdict and rescues needed packs",
    Rule.COUNT_NO_CANDIDATES: "candidates of other prunes do not count as copies of an object",
    Rule.VERDICT_FIRST: "a prune deletes after its verdict exists, and follows the first verdict",
    Rule.ADOPT_WAITS: "a prune that completes another one lists and awaits the intents itself",
    Rule.REMEMBER_PACKS: "a verdict names the packs that are deleted, for ever",
    Rule.REMEMBER_FENCED: "a verdict names a fenced run, for ever, before its tombstone is deleted",
    Rule.REMEMBER_FORGOTTEN: "a verdict names a forgotten point before its records are deleted",
    Rule.FINAL_BEFORE_MARK: "a forgotten point is a root until it has a final entry",
    Rule.FINAL_WINS: "a log with a final entry is final, whatever entry follows",
    Rule.UNIQUE_PACKS: "the name of a pack is never used again",
    Rule.PIN_CHECKS_POINT: "a pin counts after its point was found listed once the pin existed",
    Rule.PINS_AFTER_FINALS: "a mark lists pins and holds after the final entries",
    Rule.HOLDS_KEEP: "a mark keeps the points that holds name",
    Rule.HOLD_CHECKS_POINT: "a hold counts after its point was found listed once the hold existed",
    Rule.HOLD_BY_OWN_CLOCK: "a prune measures the age of a hold by its own clock between looks",
    Rule.HOLD_FROM_SENDING: "a reader measures its hold from the sending of the last renewal",
    Rule.RENEW_IN_TIME: "a renewal counts only if its reply arrives while the hold is valid",
    Rule.VERIFY_READS: "a reader verifies the digest of every object",
    Rule.RELOAD_SETTINGS: "an old program loads the settings again once it has the writer's lock",
    Rule.UPGRADE_LOCKS_PINS: "the upgrade holds the lock under which pins change the settings",
}


class Rules:
    """The rules that are in force: all but the omitted ones."""

    def __init__(self, without: Collection[Rule] = ()) -> None:
        self._without = frozenset(without)

    def __contains__(self, rule: Rule) -> bool:
        return rule not in self._without
