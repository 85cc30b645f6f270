"""Forget and unforget: entries in the log of a point."""

from tools.model.actor import Actor
from tools.model.programs.client import create
from tools.model.programs.look import check_removed, list_logs, look_at_points
from tools.model.requests import Choose, Program
from tools.model.store import Entry, Kind, Prefix


def forget(actor: Actor, *, keep: int = 1) -> Program[None]:
    """Forget a point, unless only *keep* points are left."""
    living = sorted((yield from look_at_points(actor)).living)
    if len(living) <= keep:
        return
    commit = living[(yield Choose(len(living)))]
    number = (yield from list_logs(actor)).get(commit, (0, Kind.RESTORED))[0] + 1
    actor.record.forget_sent(commit, number)
    yield from create(
        actor, (Prefix.FORGOTTEN, (commit, number)), Entry(Kind.FORGOTTEN, actor.new_id())
    )


def unforget(actor: Actor) -> Program[None]:
    """Restore a forgotten point that no prune has made final."""
    forgotten = (yield from look_at_points(actor)).forgotten
    if not forgotten:
        return
    commits = sorted(forgotten)
    commit = commits[(yield Choose(len(commits)))]
    number = forgotten[commit][1] + 1
    entry = Entry(Kind.RESTORED, actor.new_id())
    if not (yield from create(actor, (Prefix.FORGOTTEN, (commit, number)), entry)):
        return
    if not (yield from check_removed(actor, commit)):
        actor.record.restored(commit, number)
