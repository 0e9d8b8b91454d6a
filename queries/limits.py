"""How much one sandboxed query may take."""

from dataclasses import dataclass

from ..errors import InvalidOption

LEAST_MEMORY = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """The most memory, rows and wall time of one query. Temporary disk is none: a query that does not fit memory ends.

    `memory_bytes` is of the process that runs the query, its libraries' tables included, and of the rows that
    `fetchall`, `to_arrow_table` and `df` collect. `seconds` run from the question to the last row that is read.

    >>> Limits(seconds=0)
    Traceback (most recent call last):
    ...
    actlake.errors.InvalidOption: seconds=0 cannot be used: give a number above 0
    """

    memory_bytes: int = 2 * 2**30
    rows: int = 1_000_000
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for option, least in (("memory_bytes", LEAST_MEMORY), ("rows", 1)):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidOption(option, value, f"give a whole number, {least} or more")
        if not isinstance(self.seconds, int | float) or not 0 < self.seconds < float("inf"):
            raise InvalidOption("seconds", self.seconds, "give a number above 0")
