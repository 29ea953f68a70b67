"""Byte-level BPE: text to ids and back, exactly, with control tokens that text cannot forge.

A HuggingFace tokenizer searches its input for the spellings of its added tokens. In a chat service that is a hole: a user
who types `<｜Assistant｜>` would speak as the assistant. So the tokenizer that sees text is built WITHOUT the added tokens
(same vocabulary, same merges, the control entries taken out), and control ids come only from `encode_parts`, where the caller
marks what is control, or from `encode_with_controls`, which is for text we wrote ourselves. Both give what transformers gives
for the same file. `encode_special_tokens=True` of the library is not enough: it ignores added tokens that aren't flagged special.

Decoding is our own table id → bytes, joined and read as UTF-8. That makes `decode(encode(s)) == s` a law of bytes, and lets a
stream hold back half a character instead of printing U+FFFD (`StreamDecoder`).

Files: tokenizer.json and tokenizer_config.json as transformers writes them; training is in bpe.py.
"""
from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from fathom.errors import UserError

from . import special

CONFIG_FILE, FILE = "tokenizer_config.json", "tokenizer.json"
SURROGATE = re.compile("[\ud800-\udfff]")
UNKNOWN = "\ufffd".encode()  # shown for an id that the tokenizer doesn't have: models may have more rows than the vocabulary


class Tokenizer:
    """A loaded or freshly trained tokenizer. Make one with `Tokenizer.load` or `train_tokenizer`.

    Args:
        definition: the parsed tokenizer.json.
        config: the parsed tokenizer_config.json that `save` writes back; None for our own.
        origin: what to call the tokenizer in error messages, usually the file's path.

    Raises:
        UserError: not a byte-level BPE, or one that changes text before encoding it.
    """

    def __init__(self, definition: Mapping[str, Any], config: Mapping[str, Any] | None = None, origin: str = FILE) -> None:
        self.origin = origin
        self._definition, self._config = definition, config
        check_definition(definition, origin)
        self._controls: dict[str, int] = {token["content"]: token["id"] for token in definition["added_tokens"]}
        self._bytes = token_bytes(definition, self._controls, origin)
        try:
            self._bpe = tokenizers.Tokenizer.from_str(json.dumps(without_controls(definition, set(self._controls))))
        except Exception as error:  # the library raises bare Exception for a definition that it cannot use
            raise UserError(origin, str(error), "a tokenizer.json that the tokenizers library reads",
                            "copy the file again or train a new tokenizer") from error
        self._control_ids = frozenset(self._controls.values())
        self._ids = frozenset(definition["model"]["vocab"].values()) | self._control_ids
        spellings = sorted(self._controls, key=len, reverse=True)  # of two that begin alike the longer one wins, as in the library
        self._control_pattern = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")
        self.bos_id, self.eos_id = self.control_id(special.BOS), self.control_id(special.EOS)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads a tokenizer.json, or the one in a model or run folder, with its tokenizer_config.json if that is there.

        Raises:
            UserError: missing, damaged, not byte-level BPE, or without BOS and EOS of SPEC 8.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        config = file.with_name(CONFIG_FILE)
        return cls(read_json(file), read_json(config) if config.is_file() else None, str(file))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json and tokenizer_config.json into `folder` (made if need be), each whole or not at all.

        Raises:
            UserError: the folder cannot be written; what was there before still is.
        """
        folder = Path(folder)
        config = self._config if self._config is not None else {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special.BOS, "eos_token": special.EOS, "pad_token": special.EOS,
            "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((FILE, self._definition), (CONFIG_FILE, config)):
                with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=folder) as drafts:
                    draft = Path(drafts) / name
                    draft.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
                    os.replace(draft, folder / name)
        except OSError as error:
            raise UserError(str(folder), error.strerror, "must be a folder that can be written",
                            "free some space or give another folder") from error

    # ---- sizes and single tokens

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs at least."""
        return len(self._bytes)

    @property
    def pad_id(self) -> int:
        """Padding is EOS, as in the published tokenizer."""
        return self.eos_id

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids that `encode` never gives."""
        return self._control_ids

    def has(self, token_id: int) -> bool:
        """Whether there is a token of that id: vocabularies may have holes."""
        return token_id in self._ids

    def control_id(self, spelling: str) -> int:
        """Id of one control token, `special.USER` and the like.

        Raises:
            UserError: this tokenizer has no such token.
        """
        if spelling not in self._controls:
            raise UserError(self.origin, None, f"has no control token {spelling}", "use a tokenizer with the tokens of DeepSeek-V4")
        return self._controls[spelling]

    # ---- text to ids

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, whatever it spells: never a control id. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
        return self._bpe.encode(clean(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each text, on all threads of the library."""
        return [encoding.ids for encoding in self._bpe.encode_batch_fast([clean(text) for text in texts], add_special_tokens=False)]

    def encode_parts(self, parts: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of (text, is_control) parts; see `fathom.text.encode_parts`.

        Plain parts that touch are encoded as one text, so that where they were cut doesn't show in the ids.

        Raises:
            UserError: a part marked control isn't exactly one control token of this tokenizer.
        """
        ids: list[int] = []
        plain: list[str] = []
        for text, is_control in [*parts, ("", False)]:
            if not is_control:
                plain.append(text)
                continue
            ids += self.encode("".join(plain))
            plain.clear()
            ids.append(self.control_id(text))
        return ids + self.encode("".join(plain))

    def encode_with_controls(self, text: str) -> list[int]:
        """Ids of trusted `text`: spellings of control tokens become control ids, as in transformers. Never for a user's text."""
        return self.encode_parts(split_controls(text, self._control_pattern))

    # ---- ids to text

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """Text of `ids`; control tokens are spelled out, or left out. Bytes that aren't UTF-8 and unknown ids show as U+FFFD."""
        return self.decode_bytes(ids, skip_control=skip_control).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_control: bool = False) -> bytes:
        """The bytes that `ids` stand for, which need not be UTF-8 as long as a character is incomplete."""
        table, size, skipped = self._bytes, len(self._bytes), self._control_ids if skip_control else frozenset()
        return b"".join(table[i] if 0 <= i < size else UNKNOWN for i in ids if i not in skipped)


class StreamDecoder:
    """Decodes ids as they come, never splitting a character.

    Bytes that may still become a character wait; bytes that cannot are U+FFFD at once, and what waits at the end is U+FFFD in
    `finish`. However the ids were grouped, the pieces together equal `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_control: bool = False) -> None:
        self._tokenizer, self._skip_control = tokenizer, skip_control
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: int | Sequence[int]) -> str:
        """The text that one more id, or several, completes; often empty in the middle of a character."""
        return self._utf8.decode(self._tokenizer.decode_bytes([ids] if isinstance(ids, int) else ids, skip_control=self._skip_control))

    def finish(self) -> str:
        """What was waiting, as U+FFFD. The decoder can then be used for another stream."""
        return self._utf8.decode(b"", final=True)


def clean(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 text contains and the library refuses."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return SURROGATE.sub("\ufffd", text)
    return text


def split_controls(text: str, pattern: re.Pattern[str]) -> list[tuple[str, bool]]:
    """`text` cut at the matches of `pattern`, which are marked control."""
    parts: list[tuple[str, bool]] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            parts.append((text[end : match.start()], False))
        parts.append((match.group(), True))
        end = match.end()
    if end < len(text):
        parts.append((text[end:], False))
    return parts


# ---- tokenizer.json


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, or a UserError that names the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(file), None, "no such file", "give a model folder or a tokenizer.json, or train one: fathom train") from None
    except OSError as error:
        raise UserError(str(file), error.strerror, "a readable file") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(str(file), f"{error}", "JSON text", "the file is damaged: copy it again") from error
    if not isinstance(content, dict):
        raise UserError(str(file), type(content).__name__, "a JSON object", "the file is damaged: copy it again")
    return content


def check_definition(definition: Mapping[str, Any], origin: str) -> None:
    """Refuses what would break the laws of this file: another algorithm, changed text, added tokens with special matching."""
    remedy = "use a tokenizer of the DeepSeek family or train one"
    model, added = definition.get("model"), definition.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(added, list):
        raise UserError(origin, None, "lacks `model.vocab` or `added_tokens`", "the file is damaged: copy it again")
    if model.get("type", "BPE") != "BPE" or model.get("dropout") or model.get("byte_fallback"):
        raise UserError(f"{origin} model.type", model.get("type"), "a plain byte-level BPE", remedy)
    if definition.get("normalizer") not in (None, {"type": "Sequence", "normalizers": []}):
        raise UserError(f"{origin} normalizer", definition["normalizer"], "none, so that decoding gives back the text", remedy)
    splitters = definition.get("pre_tokenizer") or {}
    splitters = splitters.get("pretokenizers", [splitters])
    if not any(step.get("type") == "ByteLevel" and not step.get("add_prefix_space") for step in splitters):
        raise UserError(f"{origin} pre_tokenizer", [step.get("type") for step in splitters], "one that works on bytes (ByteLevel)", remedy)
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not isinstance(token.get("id"), int):
            raise UserError(f"{origin} added_tokens", token, "objects with `id` and `content`", "the file is damaged: copy it again")
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise UserError(f"{origin} added token", token["content"], "no lstrip, rstrip or single_word: they swallow text", remedy)


def without_controls(definition: Mapping[str, Any], controls: set[str]) -> dict[str, Any]:
    """The same tokenizer with no added tokens, no vocabulary entry of theirs and no merge that makes or uses one."""
    model = dict(definition["model"])
    model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in controls}
    pairs = (tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model.get("merges", []))
    model["merges"] = [[left, right] for left, right in pairs if controls.isdisjoint((left, right, left + right))]
    return {**definition, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None, "model": model}


def token_bytes(definition: Mapping[str, Any], controls: Mapping[str, int], origin: str) -> list[bytes]:
    """Bytes of each id, 0 … largest id; holes in the numbering are U+FFFD."""
    vocab: dict[str, int] = definition["model"]["vocab"]
    byte_of = byte_alphabet()
    missing = [f"0x{byte:02x}" for char, byte in byte_of.items() if char not in vocab]
    if missing:
        raise UserError(origin, None, f"has no token for {len(missing)} of the 256 bytes ({missing[0]}, …)", "use a byte-level tokenizer")
    table = [UNKNOWN] * (1 + max([*vocab.values(), *controls.values()]))
    for token, i in vocab.items():
        if token not in controls:
            table[i] = bytes(byte_of[char] for char in token) if all(char in byte_of for char in token) else token.encode()
    for token, i in controls.items():
        table[i] = token.encode()
    return table


def byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level vocabularies: itself if it is printable Latin-1, else from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
