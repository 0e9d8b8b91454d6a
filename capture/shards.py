"""The part of a run that one of several processes does: every n-th unit, so that a unit is the same whoever does it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ..errors import InvalidOption

Unit = TypeVar("Unit")

_WANTED = "give I/N, as 2/8 for the second of eight parts: I is from 1 to N"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `n_shards`, counted from 1.

    >>> str(Shard.of("2/8")), str(Shard.of(None))
    ('2/8', '1/1')
    """

    number: int = 1
    n_shards: int = 1

    @classmethod
    def of(cls, value: object) -> "Shard":
        """The part that `2/8` or (2, 8) names; all of it for None. Raises InvalidOption."""
        match value:
            case None:
                return cls()
            case str() if parts := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value):
                shard = cls(int(parts[1]), int(parts[2]))
            case (int() as number, int() as n_shards):
                shard = cls(number, n_shards)
            case _:
                raise InvalidOption("shard", value, _WANTED)
        if not 1 <= shard.number <= shard.n_shards:
            raise InvalidOption("shard", value, _WANTED)
        return shard

    def units(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Those of all units that are this part's."""
        return islice(units, self.number - 1, None, self.n_shards)

    def __str__(self) -> str:
        return f"{self.number}/{self.n_shards}"
