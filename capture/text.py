"""What each token says: its bytes, its text, and which characters of the generation it covers."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int32

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Spans = tuple[Int32[np.ndarray, "n"], Int32[np.ndarray, "n"]]


class TokenText:
    """Token ids to bytes, without the byte alphabets and word marks of the tokenizer's pieces."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special |= set(tokenizer.all_special_ids)
        self._byte_level = _is_byte_level(tokenizer)
        self.bytes_of = lru_cache(maxsize=65536)(self._bytes_of)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def text_of(self, token_id: int) -> str:
        """The token's text; bytes that are not whole characters as `<0xE2>`."""
        data = self.bytes_of(token_id)
        return "".join(
            f"<0x{ord(char) - 0xDC00:02X}>" if "\udc80" <= char <= "\udcff" else char
            for char in data.decode(errors="surrogateescape")
        )

    def completion(self, token_ids: Sequence[int]) -> str:
        """The text of generated tokens, special ones left out; a byte that is not part of a character is `\ufffd`."""
        return _characters(b"".join(self._written(token_ids)))

    def spans(self, prompt: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Spans:
        """For each token, the offsets of its first character and after its last, in prompt + completion.

        Tokens that share a character both cover it; a special token that stands for no text covers none.
        """
        ends = self._prompt_byte_ends(prompt, prompt_ids)
        if ends is None:
            starts, stops = self._spans_by_tokenizer(prompt, prompt_ids)
        else:
            starts, stops = _character_spans(prompt.encode(), ends)
        written = self._written(completion_ids)
        ends = np.cumsum([len(part) for part in written]).tolist()
        more_starts, more_stops = _character_spans(b"".join(written), list(zip([0, *ends], ends, strict=False)))
        shift = len(prompt)
        return (
            np.array([*starts, *(shift + start for start in more_starts)], np.int32),
            np.array([*stops, *(shift + stop for stop in more_stops)], np.int32),
        )

    def _written(self, token_ids: Sequence[int]) -> list[bytes]:
        return [b"" if self.is_special(token_id) else self.bytes_of(token_id) for token_id in token_ids]

    def _prompt_byte_ends(self, prompt: str, token_ids: Sequence[int]) -> list[tuple[int, int]] | None:
        """Byte spans of the prompt's tokens, or None when the tokenizer changed the text before cutting it."""
        data, spans, at = prompt.encode(), [], 0
        for token_id in token_ids:
            part = self.bytes_of(token_id)
            if data.startswith(part, at):
                spans.append((at, at + len(part)))
                at += len(part)
            elif self.is_special(token_id):
                spans.append((at, at))
            else:
                return None
        return spans if at == len(data) else None

    def _spans_by_tokenizer(self, prompt: str, token_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        spans: list[tuple[int, int]] = []
        at = 0
        if getattr(self._tokenizer, "is_fast", False):
            for special in (True, False):
                encoding = self._tokenizer(prompt, add_special_tokens=special, return_offsets_mapping=True)
                if list(encoding["input_ids"]) == list(token_ids):
                    for start, stop in encoding["offset_mapping"]:
                        spans.append((start, stop) if stop > start else (at, at))
                        at = spans[-1][1]
                    return [start for start, _ in spans], [stop for _, stop in spans]
        for length in (len(_characters(self.bytes_of(token_id))) for token_id in token_ids):
            spans.append((min(at, len(prompt)), min(at + length, len(prompt))))
            at += length
        return [start for start, _ in spans], [stop for _, stop in spans]

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:  # a row of the unembedding that the tokenizer has no token for
            return b""
        if self._byte_level and all(char in _BYTE_OF for char in piece):
            return bytes(_BYTE_OF[char] for char in piece)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return str(piece).replace("▁", " ").encode(errors="replace")


def _characters(data: bytes) -> str:
    return re.sub("[\udc80-\udcff]", "\ufffd", data.decode(errors="surrogateescape"))


def _character_spans(data: bytes, byte_spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Byte spans as character spans: each covers every character that it has a byte of."""
    lengths = [
        1 if "\udc80" <= char <= "\udcff" else len(char.encode()) for char in data.decode(errors="surrogateescape")
    ]
    owner = np.repeat(np.arange(len(lengths)), lengths)  # the character of each byte
    starts = [int(owner[start]) if start < len(owner) else len(lengths) for start, _ in byte_spans]
    stops = [
        int(owner[stop - 1]) + 1 if stop > start else first
        for (start, stop), first in zip(byte_spans, starts, strict=True)
    ]
    return starts, stops


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = json.loads(backend.to_str())["decoder"] or {}
    return any(part["type"] == "ByteLevel" for part in (decoder, *decoder.get("decoders", ())) if part)


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE: printable Latin-1 as it is, the rest from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
