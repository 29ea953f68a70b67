"""Text in and out: the tokenizer, the V4 chat encoding, the parser of completions, stop strings. No torch here."""
from .bpe import train_tokenizer
from .encoding import encode_messages, encode_parts
from .special import SPECIAL_TOKENS
from .tokenizer import StreamDecoder, Tokenizer

__all__ = ["SPECIAL_TOKENS", "StreamDecoder", "Tokenizer", "encode_messages", "encode_parts", "train_tokenizer"]
