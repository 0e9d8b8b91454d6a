"""Tokens that make a word, or a line: where scores of tokens can be added up.

Words end where Unicode's default rules (UAX #29) put a boundary in the text, so "don't" and "3.14" are one word and
punctuation stands alone. In a script without spaces (Han, Kana, Thai, …) these rules end a word after every character, so that
there tokens stay what they are, but for those that share a character.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Integer

from ..errors import InvalidOption

By = Literal["token", "word", "line"]
BYS: tuple[By, ...] = get_args(By)
"""What saliency is shown for: each token, each word, or each line."""

Group = tuple[int, int]
"""The first position and the last."""


def token_groups(
    text: str,
    char_start: Integer[np.ndarray, "tokens"],
    char_end: Integer[np.ndarray, "tokens"],
    is_special: Bool[np.ndarray, "tokens"],
    by: By,
) -> list[Group]:
    """The groups of a text's tokens, whose offsets these are, in order: each token is in one.

    A token of spaces alone belongs to the word after it, as the space before a word does in most tokens; a line ends with
    the token that has its newline; special tokens stand alone. Raises InvalidOption.
    """
    if by not in BYS:
        raise InvalidOption("by", by, f"choose one of {', '.join(BYS)}")
    spans = list(zip(char_start.tolist(), char_end.tolist(), is_special.tolist(), strict=True))
    if by == "token":
        return [(position, position) for position in range(len(spans))]
    inner = _inside_words(text) if by == "word" else frozenset()
    ends = []
    for position, ((start, end, special), (next_start, _, next_special)) in enumerate(pairwise(spans)):
        piece = text[start:end]
        if special or next_special:
            together = False
        elif by == "line":
            together = "\n" not in piece or next_start < end
        else:
            together = next_start < end or end in inner or _leads_to_word(piece, text[end : end + 1])
        if not together:
            ends.append(position)
    ends += [len(spans) - 1] if spans else []
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))


def within(groups: Iterable[Group], positions: Sequence[int]) -> list[Group]:
    """The groups cut down to some positions, ascending, which follow one another in each group; those that have none are left
    out.

    >>> within([(0, 2), (3, 5)], [2, 3, 4])
    [(2, 2), (3, 4)]
    """
    there = np.array(positions, np.int64)
    found = []
    for first, last in groups:
        inside = there[(there >= first) & (there <= last)]
        for part in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):
            if len(part):
                found.append((int(part[0]), int(part[-1])))
    return found


def _leads_to_word(piece: str, following: str) -> bool:
    """Whether a token is of spaces that the next word follows."""
    blank = bool(piece) and piece.isspace() and "\n" not in piece
    return blank and bool(following) and not following.isspace()


def _inside_words(text: str) -> frozenset[int]:
    """The offsets in a text that no word boundary is at."""
    import regex  # here, because few need it

    boundaries = {match.start() for match in regex.finditer(r"(?w)\b", text)}
    return frozenset(range(1, len(text))) - boundaries
