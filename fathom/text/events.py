"""What a completion parser reports, piece by piece. A service turns these into its own stream of deltas."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """A call begins. Calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """More of a call's arguments: all of them joined are the text of a JSON object, parameters in the order written."""

    index: int
    arguments: str


@dataclass(frozen=True)
class ToolCallEnd:
    """A call is over. `complete` is False if the text ended inside it."""

    index: int
    complete: bool


@dataclass(frozen=True)
class Notice:
    """Something that wasn't well-formed: what was wrong, and the characters that show nowhere else."""

    problem: str
    text: str = ""


Event = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta | ToolCallEnd | Notice


def merge_events(events: Iterable[Event]) -> list[Event]:
    """The same events with adjacent deltas of a kind joined: what is left doesn't depend on how the text was cut."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, ReasoningDelta | ContentDelta) and type(last) is type(event):
            merged[-1] = type(event)(last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta) and last.index == event.index:
            merged[-1] = ToolCallDelta(event.index, last.arguments + event.arguments)
        else:
            merged.append(event)
    return merged
