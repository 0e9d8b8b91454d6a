"""Questions to ask of any store, with the SQL that answers them: `examples.sql`, in its order."""

from dataclasses import dataclass
from importlib import resources

MARK = "-- ?"


@dataclass(frozen=True)
class Example:
    """A question and the statement that answers it."""

    question: str
    sql: str


def examples(*, more: bool = False) -> tuple[Example, ...]:
    """The examples, in order; with `more` also those of `more_examples.sql`."""
    names = ("examples.sql", "more_examples.sql") if more else ("examples.sql",)
    return tuple(example for name in names for example in _examples_in(name))


def _examples_in(name: str) -> tuple[Example, ...]:
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    questions = (part.split("\n", 1) for part in text.split(f"\n{MARK}")[1:])
    return tuple(Example(question.strip(), sql.strip().rstrip(";")) for question, sql in questions)
