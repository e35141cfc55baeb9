"""Tokens as text to show, one piece each."""

from __future__ import annotations

import re
from typing import Any

_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """Turns token ids into printable pieces, whichever of the usual alphabets the vocabulary is written in.

    Byte-level vocabularies (GPT-2, SmolLM2, Qwen) write every byte as one letter, SentencePiece ones (Llama, Gemma)
    a space as `▁` and rare bytes as `<0x0A>`. Decoding a single id instead would drop leading spaces in the latter and
    show every split character as the same `�`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {int(i) for i in getattr(tokenizer, "added_tokens_decoder", {})}
        alphabet = byte_alphabet()
        self._bytes = alphabet if "Ġ" in tokenizer.get_vocab() else None

    def __call__(self, token: int) -> str:
        """The piece of one token."""
        return printable(self.raw(token))

    def raw(self, token: int) -> bytes:
        """The bytes a token stands for, in UTF-8 or, for a split character, a part of it."""
        try:
            text = self._tokenizer.convert_ids_to_tokens(token)
        except (IndexError, OverflowError):
            text = None
        if text is None:  # embeddings are often padded beyond the tokenizer's vocabulary
            return f"<{token}>".encode()
        if token in self._added:
            return text.encode()
        if self._bytes is not None and all(letter in self._bytes for letter in text):
            return bytes(self._bytes[letter] for letter in text)
        if match := _BYTE.fullmatch(text):
            return bytes([int(match[1], 16)])
        return text.replace("▁", " ").encode()


def printable(text: str | bytes) -> str:
    r"""Text with nothing that would break a line or a table: `↵` for a newline, `\xE2` for a byte of no character.

    Example:
        >>> printable("a\n"), printable(b"\xe2\x80")
        ('a↵', '\\xE2\\x80')
    """
    if isinstance(text, bytes):
        # surrogateescape maps each undecodable byte to one code point, U+DC80 to U+DCFF
        text = text.decode("utf-8", errors="surrogateescape")
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02X}"
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letter for every byte: printable Latin-1 stands for itself, the others are moved up from 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
