"""Sizes in bytes as people write them."""

import re

from ..errors import InvalidOption

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def parse_bytes(text: str, option: str = "memory") -> int:
    """A size as people write it. Raises InvalidOption, naming `option`.

    >>> parse_bytes("2GB"), parse_bytes("1.5 GiB")
    (2000000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if not match or match[2].lower() not in _UNITS:
        raise InvalidOption(option, text, "give a size, as 512MB or 2GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])
