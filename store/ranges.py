"""Sets of layers as people write them: `0,3-5`."""

import re

from ..errors import InvalidOption

_PART = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


def parse_ranges(text: str, option: str = "layers") -> tuple[int, ...]:
    """The numbers that `text` names, ascending, each once. Raises InvalidOption, naming `option`.

    >>> parse_ranges("9, 3-5, 4")
    (3, 4, 5, 9)
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise InvalidOption(option, text, "write numbers and ranges, as in 0,3-5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 100_000:
            raise InvalidOption(option, text, "a range goes from the smaller number to the greater, as in 3-5")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))
