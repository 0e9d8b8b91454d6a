"""Sets of layers as people write them: `0,3-5`."""

import re
from itertools import chain

from ..errors import InvalidOption

_PART = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)
_MOST = 100_000


def parse_ranges(text: str, option: str = "layers") -> tuple[int, ...]:
    """The numbers that `text` names, ascending, each once. Raises InvalidOption, naming `option`.

    >>> parse_ranges("9, 3-5, 4")
    (3, 4, 5, 9)
    """
    ranges = []
    n_numbers = 0
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise InvalidOption(option, _shown(text), "write numbers and ranges, as in 0,3-5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InvalidOption(option, _shown(text), "a range goes from the smaller number to the greater, as in 3-5")
        n_numbers += last - first + 1
        if n_numbers > _MOST:
            raise InvalidOption(option, _shown(text), f"give {_MOST:,} numbers at most, and each once")
        ranges.append(range(first, last + 1))
    return tuple(sorted(set(chain.from_iterable(ranges))))


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
