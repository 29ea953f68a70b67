"""Text in and out: the tokenizer, the V4 chat encoding, the parser of completions, stop strings. No torch here."""
from .bpe import train_tokenizer
from .completion import CompletionParser, parse_completion
from .encoding import encode_messages, encode_parts
from .events import ContentDelta, Event, Notice, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, merge_events
from .special import SPECIAL_TOKENS
from .stops import StopStrings
from .tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "SPECIAL_TOKENS", "CompletionParser", "ContentDelta", "Event", "Notice", "ReasoningDelta", "StopStrings", "StreamDecoder",
    "Tokenizer", "ToolCallDelta", "ToolCallEnd", "ToolCallStart", "encode_messages", "encode_parts", "merge_events", "parse_completion",
    "train_tokenizer",
]
