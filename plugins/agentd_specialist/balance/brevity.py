"""Keep plans and results small enough to be passed from task to task of a workflow; pure.

A larger result is stored apart, and neither conditions nor approvals can read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd_specialist.balance.model import Move
    from agentd_specialist.balance.plan import Left, Plan

MOVES: Final = 10_000
LEFT: Final = 3_500
"""Bytes for the moves and for the guests that stay, of the 16 KiB that a result may have."""
WORDS: Final = 200
"""Characters of a reason."""
T = TypeVar("T", bound=msgspec.Struct)


def brief(found: Plan) -> Plan:
    """Return a plan with as many moves and reasons as a task can pass on.

    Sentences are left out first, then the last moves; they follow with the next plan.
    """
    wanted = [move for move in found.left if move.reason != UNNEEDED]
    left = first(wanted, LEFT)
    moves = list(found.moves)
    if _size(moves) > MOVES:
        whole = first(moves, MOVES // 3)
        moves = first([*whole, *plain(moves[len(whole) :])], MOVES)
    more = len(found.moves) - len(moves)
    text = found.text + (f"; {more} more migrations follow with the next plan" if more else "")
    gib = round(sum(move.gib for move in moves), 3)
    unlisted = len(found.left) - len(left)
    return msgspec.structs.replace(
        found, moves=moves, left=left, more=more, unlisted=unlisted, text=text, gib=gib, shares=[]
    )


UNNEEDED: Final = "the cluster is balanced without its move"
"""Why most guests stay; it is not listed in a brief plan."""


def plain(moves: Sequence[Move]) -> list[Move]:
    """Return moves without their sentences."""
    return [msgspec.structs.replace(move, reason="") for move in moves]


def short(left: Sequence[Left]) -> list[Left]:
    """Return guests that stay, with reasons of limited length."""
    return [msgspec.structs.replace(entry, reason=entry.reason[:WORDS]) for entry in left]


def first(items: Sequence[T], limit: int) -> list[T]:
    """Return the first items whose JSON takes no more than `limit` bytes."""
    found: list[T] = []
    size = 0
    for item in items:
        size += _size([item])
        if size > limit:
            break
        found.append(item)
    return found


def _size(items: Sequence[msgspec.Struct]) -> int:
    return len(msgspec.json.encode(items))
