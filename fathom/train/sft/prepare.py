"""From a recipe's conversations to a token store: make them, read your own, hold out, encode, mark what is learned.

Every conversation is one document and is never cut: half of one would teach to answer a question that isn't there. A generated one that
is longer than the shortest row loses its last questions; one of your own is left out and counted.

A stage of the recipe with kinds of its own is a lesson: its conversations are a split of their own, without yours.

All of it is deterministic, and the folder appears whole or not at all.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from ...checkpoint import replace_folder
from ...config import ModelConfig
from ...config.recipe import ConversationsRecipe, Recipe
from ...errors import UserError
from ...text import Tokenizer
from ..data.store import write_store
from ..durable import flush
from ..phase import Tell
from .conversation import make_conversation
from .exchange import Kind
from .kinds import KINDS
from .learned import encode_conversation
from .own import Own, read_own

HELD_OUT = 200  # generated conversations of the held-out side, for the held-out loss

Document = tuple[list[int], str]  # ids, as complement where they are only read; the text of the others


@dataclass(frozen=True)
class Summary:
    """What became of the conversations: how many to train on, held out, of your own among both, left out as longer than a row; tokens of
    the first, and how many of them the assistant says."""

    conversations: int
    held_out: int
    own: int
    too_long: int
    tokens: int
    learned: int

    def lines(self) -> list[str]:
        """The same for people."""
        own = f", {self.own:,} of all your own" if self.own else ""
        too_long = f"; {self.too_long:,} longer than a row, left out" if self.too_long else ""
        return [f"{self.conversations:,} conversations to train on: {self.tokens:,} tokens, {self.learned:,} of them the assistant's",
                f"{self.held_out:,} held out{own}{too_long}"]


def chosen_kinds(recipe: ConversationsRecipe) -> list[Kind]:
    """The kinds of generated questions that a recipe asks for; none where it generates none.

    Raises:
        UserError: a kind that doesn't exist.
    """
    return _kinds("conversations.kinds", recipe.kinds or tuple(KINDS)) if recipe.generated else []


def _kinds(field: str, names: Sequence[str]) -> list[Kind]:
    for name in names:
        if name not in KINDS:
            raise UserError(field, name, f"one of {', '.join(KINDS)}")
    return [KINDS[name] for name in names]


def check_conversations(recipe: Recipe) -> None:
    """Refuse a recipe without any conversation, or with files that hold something else, before anything is made for it."""
    wanted = recipe.conversations
    for stage in recipe.stage:
        if _kinds("stage.kinds", stage.kinds) and not wanted.generated:
            raise UserError("stage.kinds", stage.kinds, "nothing is generated", "let conversations.generated be above 0, or leave the kinds out")
    own = sum(1 for _ in read_own(wanted.paths))
    if not chosen_kinds(wanted) and own < 2:
        raise UserError("conversations", None, "at least two conversations, one of which is held out",
                        "name files with --data, or let conversations.generated be above 0")


def prepare(recipe: Recipe, config: ModelConfig, folder: Path, progress: Tell) -> Summary:
    """Write `folder` with the splits "train" and "held_out", one of each lesson, tokenizer.json and summary.json, unless it is there.

    Raises:
        UserError: no conversation is left to train on, or the base's tokenizer doesn't fit.
    """
    if (folder / "summary.json").exists():
        return Summary(**json.loads((folder / "summary.json").read_text()))
    tokenizer = _tokenizer(recipe, config)
    own = _sides(list(read_own(recipe.conversations.paths)), recipe.conversations.held_out)
    trained, held_out = Counter[str](), Counter[str]()
    with replace_folder(folder) as new:
        tokenizer.save(new)
        for split in dict.fromkeys(["held_out", *(stage.split for stage in recipe.stage)]):
            tally = Counter[str]()
            documents = _documents(recipe, tokenizer, own.get(split, []), split, tally, progress)
            write_store(new, split, documents, config.vocab_size, texts=split == "held_out", masked=True)
            if not tally["kept"]:
                raise UserError("conversations", None, f"none that fits into a row of {shortest_row(recipe, split)} tokens",
                                "take a larger stage.length")
            (held_out if split == "held_out" else trained).update(tally)
        summary = Summary(trained["kept"], held_out["kept"], trained["own"] + held_out["own"], trained["too long"] + held_out["too long"],
                          trained["tokens"], trained["learned"])
        (new / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
        for file in new.iterdir():
            flush(file)
    return summary


def shortest_row(recipe: Recipe, split: str) -> int:
    """Tokens that a conversation of the split must fit in, whatever stage it comes up in; held-out ones are like those of "train"."""
    return min(stage.length for stage in recipe.stage if stage.split == ("train" if split == "held_out" else split))


def _documents(recipe: Recipe, tokenizer: Tokenizer, own: list[Own], split: str, tally: Counter[str], progress: Tell) -> Iterator[Document]:
    """One split's conversations as documents, those of your own first; `tally` counts."""
    limit = shortest_row(recipe, split) + 1  # the last id is a target only
    encoded = (encode_conversation(one.messages, one.mode, tokenizer) for one in own)
    for number, (ids, text) in enumerate(chain(encoded, _generated(recipe, tokenizer, limit, split, progress))):
        if len(ids) > limit:
            tally["too long"] += 1
            continue
        tally.update({"kept": 1, "own": int(number < len(own)), "tokens": len(ids), "learned": sum(i >= 0 for i in ids)})
        yield ids, text


def _sides(own: list[Own], share: float) -> dict[str, list[Own]]:
    """Conversations of your own, those to train on and those held out; each side has one, if there are two."""
    train = [one for one in own if not one.held_out(share)]
    held_out = [one for one in own if one.held_out(share)]
    for side, other in ((train, held_out), (held_out, train)):
        if not side and len(other) > 1:
            side.append(other.pop())
    return {"train": train, "held_out": held_out}


def _generated(recipe: Recipe, tokenizer: Tokenizer, limit: int, split: str, progress: Tell) -> Iterator[Document]:
    """Generated conversations of one split, each shortened, as far as that goes, until it fits in `limit` ids."""
    wanted, out = recipe.conversations, split == "held_out"
    own_kinds = next((stage.kinds for stage in recipe.stage if stage.split == split), ())
    kinds = _kinds("stage.kinds", own_kinds) or chosen_kinds(wanted)
    count = min(HELD_OUT, wanted.generated) if out else wanted.generated
    for number in range(count if kinds else 0):
        progress("making conversations", number, count)
        conversation = make_conversation(f"{recipe.seed}/{split}/{number}", kinds, wanted, out=out)
        document = encode_conversation(conversation.messages(), conversation.mode, tokenizer)
        while len(document[0]) > limit and len(conversation.exchanges) > 1:
            conversation = conversation.shortened()
            document = encode_conversation(conversation.messages(), conversation.mode, tokenizer)
        yield document


def _tokenizer(recipe: Recipe, config: ModelConfig) -> Tokenizer:
    """The base's tokenizer; it must have the control tokens of a conversation, or the first conversation says which is missing."""
    base = Path(recipe.base)
    places = [folder for folder in (base, base.parent.parent) if (folder / "tokenizer.json").exists()]  # a checkpoint, or its run
    if not places:
        raise UserError("base", base, "a model with its tokenizer.json", "copy the tokenizer into the folder")
    tokenizer = Tokenizer.load(places[0])
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError("tokenizer", f"{tokenizer.vocab_size} ids", f"at most the model's vocab_size = {config.vocab_size}")
    return tokenizer
