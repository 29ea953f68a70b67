"""From a recipe's paths to a token store: find, drop near-duplicates, hold out, train the tokenizer, tokenize.

The order matters. Duplicates go before anything is held out, so that no held-out document has a near-copy in training. What is held
out depends on the document's own content alone (a hash of it), so that it stays held out when documents are added or moved. The
tokenizer learns from the training documents only.

All of it is deterministic, and it is written to a folder that appears whole or not at all: killed here, a run starts here again
and gets the same tokens.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...checkpoint import replace_folder
from ...config import ModelConfig
from ...config.recipe import DataRecipe, Recipe
from ...errors import UserError
from ...text import Tokenizer, train_tokenizer
from ..durable import flush
from .counter import permutation
from .duplicates import NearDuplicates, content_hash
from .find import Document, check_data, find_documents, reasons
from .store import write_store

BATCH_CHARACTERS = 8 << 20  # of text tokenized at once
SAMPLE_ORDER = 0x746F6B  # names the order in which documents are sampled for the tokenizer
Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True)
class Summary:
    """What became of the documents: counts, skipped files and lines by reason, and bytes of UTF-8."""

    documents: int
    training_documents: int
    held_out_documents: int
    near_duplicates: int
    skipped: dict[str, int]
    training_bytes: int
    held_out_bytes: int
    training_tokens: int
    held_out_tokens: int

    def lines(self) -> list[str]:
        """The same for people."""
        skipped = sum(self.skipped.values())
        why = ": " + reasons(self.skipped) if skipped else ""
        return [f"{self.training_documents:,} documents to train on: {self.training_bytes / 1e6:.1f} MB, {self.training_tokens:,} tokens",
                f"{self.held_out_documents:,} held out: {self.held_out_bytes / 1e6:.2f} MB, {self.held_out_tokens:,} tokens",
                f"{self.near_duplicates:,} near-duplicates dropped; {skipped:,} files or lines skipped{why}"]


def prepare(recipe: Recipe, config: ModelConfig, folder: Path, progress: Progress) -> Summary:
    """Write `folder` with the splits "train" and "held_out", tokenizer.json and summary.json, unless it is already there.

    Raises:
        UserError: no data, no documents in it, or a tokenizer that doesn't fit the model.
    """
    if (folder / "summary.json").exists():
        return Summary(**json.loads((folder / "summary.json").read_text()))
    check_data(recipe.data)
    skipped: Counter[str] = Counter()
    documents = list(find_documents(recipe.data, skipped))
    kept = _without_duplicates(documents, recipe.data, progress)
    train, held_out = split(kept, recipe.data.held_out)
    tokenizer = _tokenizer(recipe, config, train, progress)
    with replace_folder(folder) as new:
        tokenizer.save(new)
        sizes = {name: _tokenize(new, name, part, tokenizer, config, progress) for name, part in (("train", train), ("held_out", held_out))}
        summary = Summary(len(documents), len(train), len(held_out), len(documents) - len(kept), dict(skipped), sizes["train"][0],
                          sizes["held_out"][0], sizes["train"][1], sizes["held_out"][1])
        (new / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
        for file in new.iterdir():
            flush(file)
    return summary


Text = Callable[[], str]  # a document that is kept: reads its text


def _without_duplicates(documents: Sequence[Document], recipe: DataRecipe, progress: Progress) -> list[Text]:
    """Readers of the documents that are not near-copies of an earlier one."""
    judge = NearDuplicates(recipe.near_duplicate, lambda number: documents[number].text())
    kept: list[Text] = []
    for number, document in enumerate(documents):
        progress("reading", number, len(documents))
        if judge.original_of(number, _text(document)) is None:
            kept.append(lambda document=document: _text(document))
    return kept


def _text(document: Document) -> str:
    text = document.text()
    if text is None:
        raise UserError("data", document.path, "a file that changed while it was read", "start again when nothing writes to the data")
    return text


def split(documents: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """(training, held out): a document is held out when its content's hash, as a number in [0, 1), is below `share`.

    Both parts have at least one document: of few, the one with the lowest hash is held out; of one, its last part is.

    Raises:
        UserError: a single document of a single line, of which nothing can be held out.
    """
    place = [int.from_bytes(content_hash(read())[:8], "big") / 2**64 for read in documents]
    if len(documents) == 1:
        lines = documents[0]().splitlines(keepends=True)
        cut = min(len(lines) - 1, max(1, round(len(lines) * (1 - share))))
        if len(lines) < 2:
            raise UserError("data", "one document of one line", "at least two documents, or two lines", "give more data")
        return [lambda: "".join(lines[:cut])], [lambda: "".join(lines[cut:])]
    out = {i for i, p in enumerate(place) if p < share} or {place.index(min(place))}
    if len(out) == len(documents):
        out.remove(place.index(max(place)))
    return [d for i, d in enumerate(documents) if i not in out], [d for i, d in enumerate(documents) if i in out]


def _tokenizer(recipe: Recipe, config: ModelConfig, train: Sequence[Text], progress: Progress) -> Tokenizer:
    """The recipe's tokenizer, or one trained on the training documents; checked against the model."""
    if recipe.tokenizer.path:
        tokenizer = Tokenizer.load(recipe.tokenizer.path)
    else:
        progress("training the tokenizer", 0, 1)
        tokenizer = train_tokenizer(_sample(train, recipe.tokenizer.sample_bytes), config.vocab_size)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError("tokenizer", f"{tokenizer.vocab_size} ids", f"at most the model's vocab_size = {config.vocab_size}")
    if (tokenizer.bos_id, tokenizer.eos_id) != (config.bos_token_id, config.eos_token_id):
        raise UserError("tokenizer", f"BOS {tokenizer.bos_id}, EOS {tokenizer.eos_id}",
                        f"the model's bos_token_id {config.bos_token_id} and eos_token_id {config.eos_token_id}")
    return tokenizer


def _sample(documents: Sequence[Text], limit: int) -> Iterator[str]:
    """Documents in a random (fixed) order until `limit` bytes are reached."""
    size = 0
    for i in permutation(len(documents), SAMPLE_ORDER).tolist():
        text = documents[i]()
        size += len(text.encode())
        yield text
        if size >= limit:
            return


def _tokenize(folder: Path, name: str, documents: Sequence[Text], tokenizer: Tokenizer, config: ModelConfig,
              progress: Progress) -> tuple[int, int]:
    """Write one split; returns its bytes of UTF-8 and its tokens."""
    totals = [0, 0]

    def encoded() -> Iterator[tuple[list[int], str]]:
        batch: list[str] = []
        size = 0
        for number, read in enumerate(documents):
            progress("tokenizing", number, len(documents))
            batch.append(read())
            size += len(batch[-1])
            if size >= BATCH_CHARACTERS or number == len(documents) - 1:
                for text, ids in zip(batch, tokenizer.encode_batch(batch)):
                    totals[0] += len(text.encode())
                    totals[1] += len(ids) + 2
                    yield [tokenizer.bos_id, *ids, tokenizer.eos_id], text
                batch.clear()
                size = 0

    write_store(folder, name, encoded(), config.vocab_size, texts=name == "held_out")
    return totals[0], totals[1]
