"""Addresses: what a page shows, as the query string of its URL.

A link to a page is the whole state of the page, so a page can be sent to a colleague and come back to with Back.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlencode

from ..errors import InvalidOption, number_ranges
from ..queries import (
    BYS,
    FACTOR_METHODS,
    METHODS,
    NEGATIVES,
    NEURON_ORDERS,
    ORDERS,
    POSITIONS,
    By,
    FactorMethod,
    Method,
    Negatives,
    NeuronOrder,
    Order,
    Which,
)
from ..store import parse_ranges

View = Literal["saliency", "factors", "activations", "layers"]
MAX_FACTORS = 64
METADATA = "meta."
"""What names of parameters that filter by metadata begin with."""
MAX_RERUNS = 9
MAX_CLUSTERS = 64
MAX_DRAWN = 5000
MAX_WATCHED = 6


@dataclass(frozen=True, slots=True)
class CorpusAddress:
    """What the corpus page shows: which generations, in which order, and which page of them, counted from 1."""

    search: str = ""
    run: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    sort: Order = "generation_id"
    descending: bool = False
    page: int = 1

    @classmethod
    def parse(cls, query: str) -> Self:
        """The address that a URL's query string says. Raises InvalidOption on a value that no page could show."""
        given = _pairs(query)
        metadata = tuple((name.removeprefix(METADATA), value) for name, value in given if name.startswith(METADATA))
        known = dict(given)
        said = {name: read(name, known[name]) for name, read in _CORPUS_READERS.items() if known.get(name)}
        return cls(metadata=tuple(dict(metadata).items()), **said)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The address that a page asks for, as `body` gave it. Raises InvalidOption, as `parse` does."""
        pairs = [(name, _as_text(body[name])) for name in _CORPUS_READERS if body.get(name) is not None]
        pairs += [(f"{METADATA}{key}", str(value)) for key, value in body.get("metadata", [])]
        return cls.parse(urlencode(pairs))

    def body(self) -> dict[str, Any]:
        """What the page's script is told of the address."""
        return asdict(self)

    @property
    def narrows(self) -> bool:
        """Whether it leaves generations out."""
        return bool(self.search or self.metadata or self.run is not None)

    def query(self) -> str:
        """The query string that says this address, empty for the whole corpus.

        >>> CorpusAddress("fish & chips", metadata=(("topic", "food"),), page=2).query()
        '?search=fish+%26+chips&meta.topic=food&page=2'
        """
        said: list[tuple[str, str]] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "metadata":
                said += [(f"{METADATA}{key}", text) for key, text in value]
            elif value != each.default:
                said.append((each.name, _as_text(value)))
        return f"?{urlencode(said)}" if said else ""


@dataclass(frozen=True, slots=True)
class SqlAddress:
    """What the SQL page shows: a query, whether it was run, and the chart of its rows by names of columns."""

    sql: str = ""
    run: bool = False
    chart: str = ""
    x: str = ""
    y: str = ""

    @classmethod
    def parse(cls, query: str) -> Self:
        """The address that a URL's query string says. Raises InvalidOption on a value that no page could show."""
        known = dict(_pairs(query))
        return cls(**{name: read(name, known[name]) for name, read in _SQL_READERS.items() if known.get(name)})

    @property
    def view(self) -> dict[str, str]:
        """What the page's chart is told."""
        return {"chart": self.chart, "x": self.x, "y": self.y}

    def query(self) -> str:
        """The query string that says this address.

        >>> SqlAddress("from runs", run=True).query()
        '?sql=from+runs&run=1'
        """
        said = {each.name: _as_text(getattr(self, each.name)) for each in fields(self) if getattr(self, each.name)}
        return f"?{urlencode(said)}" if said else ""


@dataclass(frozen=True, slots=True)
class GenerationAddress:
    """What a generation's page shows: the view, and in it the options and what is pinned."""

    id: int
    view: View = "saliency"
    method: Method = "grad_x_input"
    by: By = "token"
    detail: bool = False
    output: int | None = None
    k: int | None = None
    layers: tuple[int, ...] | None = None
    factor: int | None = None
    factor_method: FactorMethod = "nmf"
    positions: Which = "all"
    negatives: Negatives = "auto"
    scale: bool = False
    seed: int = 0
    reruns: int = 0
    layer: int | None = None
    order: NeuronOrder = "neuron"
    clusters: int = 8
    most: int = 400
    cell: tuple[int, int] | None = None
    watch: tuple[str, ...] = ()

    @classmethod
    def parse(cls, query: str) -> Self:
        """The address that a URL's query string says. Raises InvalidOption on a value that no page could show.

        >>> GenerationAddress.parse("?id=3&view=factors&layers=0,3-5").layers
        (0, 3, 4, 5)
        """
        given = dict(_pairs(query))
        if "id" not in given:
            raise InvalidOption("id", "", "the address of a generation is /generation?id=NUMBER")
        return cls(**{name: read(name, given[name]) for name, read in _READERS.items() if given.get(name)})

    def query(self) -> str:
        """The query string that says this address; options at their defaults are left out.

        >>> GenerationAddress(3, view="factors", layers=(0, 3, 4, 5)).query()
        '?id=3&view=factors&layers=0%2C3-5'
        """
        said = {
            field.name: _SAID.get(field.name, _as_text)(getattr(self, field.name))
            for field in fields(self)
            if field.name == "id" or getattr(self, field.name) != field.default
        }
        return f"?{urlencode(said)}"


@dataclass(frozen=True, slots=True)
class AskedFactors:
    """What the form at `/factors` asks of the corpus: the options of `Store.factors`, and a name to save them by."""

    k: int = 10
    layers: tuple[int, ...] | None = None
    method: FactorMethod = "nmf"
    positions: Which = "all"
    where: str = ""
    negatives: Negatives = "auto"
    scale_layers: bool = False
    seed: int = 0
    reruns: int = 0
    name: str = ""

    @classmethod
    def parse(cls, query: str) -> Self:
        """What a URL's query string asks for. Raises InvalidOption on a value that cannot be asked for."""
        given = dict(_pairs(query))
        return cls(**{name: read(name, given[name]) for name, read in _FACTORS_READERS.items() if given.get(name)})

    def query(self) -> str:
        """The query string that says it, empty for the form as it is at first.

        >>> AskedFactors(20, layers=(4, 5), where="rank > 1").query()
        '?k=20&layers=4-5&where=rank+%3E+1'
        """
        said = {
            field.name: _as_text(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return f"?{urlencode(said)}" if said else ""

    def options(self) -> dict[str, Any]:
        """The options of `Store.factors` after `k`."""
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("k", "name")}
        return options | {"layers": self.layers and list(self.layers), "where": self.where.strip() or None}


@dataclass(frozen=True, slots=True)
class NeuronAddress:
    """What a neuron's page shows: the neuron, at which tokens, and how.

    `token`, `key` with `value` (of metadata) and `where` are filters; `n` is how many examples of each sign; `seed` draws the
    random ones.
    """

    layer: int
    neuron: int
    run: int | None = None
    generated: bool = False
    token: str = ""
    key: str = ""
    value: str = ""
    where: str = ""
    n: int = 6
    seed: int = 0
    log: bool = False
    whole: bool = False
    related: bool = False

    @classmethod
    def parse(cls, query: str) -> Self:
        """The address that a URL's query string says. Raises InvalidOption on a value that no page could show."""
        given = dict(_pairs(query))
        for name in ("layer", "neuron"):
            if not given.get(name):
                raise InvalidOption(name, "", "the address of a neuron is /neuron?layer=NUMBER&neuron=NUMBER")
        return cls(**{name: read(name, given[name]) for name, read in _NEURON_READERS.items() if given.get(name)})

    def query(self) -> str:
        """The query string that says this address; options at their defaults are left out.

        >>> NeuronAddress(4, 1234, token="the").query()
        '?layer=4&neuron=1234&token=the'
        """
        said = {
            field.name: _as_text(getattr(self, field.name))
            for field in fields(self)
            if field.name in ("layer", "neuron") or getattr(self, field.name) != field.default
        }
        return f"?{urlencode(said)}"


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Layers as people write them, or None (all that are recorded) for an empty text. Raises InvalidOption.

    >>> parse_layers("3-5, 0")
    (0, 3, 4, 5)
    """
    return parse_ranges(text) if text.strip() else None


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query.removeprefix("?"), keep_blank_values=True)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _whole(least: int, most: int | None = None) -> Callable[[str, str], int]:
    wanted = f"a whole number from {least} to {most}" if most is not None else f"a whole number, {least} or more"

    def read(name: str, text: str) -> int:
        if not _is_number(text) or int(text) < least or (most is not None and int(text) > most):
            raise InvalidOption(name, text, f"it must be {wanted}")
        return int(text)

    return read


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in choices:
            raise InvalidOption(name, text, f"choose one of {', '.join(choices)}")
        return text

    return read


def _flag(name: str, text: str) -> bool:
    return _whole(0, 1)(name, text) == 1


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return number_ranges(value)
    return str(int(value)) if isinstance(value, bool | int) else str(value)


def _cell(name: str, text: str) -> tuple[int, int]:
    layer, _, position = text.partition(".")
    if not _is_number(layer.removeprefix("-")) or not _is_number(position):
        raise InvalidOption(name, text, "it must be a layer and a position, as 12.40")
    return int(layer), int(position)


def _watched(name: str, text: str) -> tuple[str, ...]:
    watched = tuple(text.split("\n"))
    if len(watched) > MAX_WATCHED:
        raise InvalidOption(name, text, f"at most {MAX_WATCHED} tokens are watched at once")
    return watched


_READERS: dict[str, Callable[[str, str], Any]] = {
    "id": _whole(0),
    "view": _one_of(*get_args(View)),
    "method": _one_of(*METHODS),
    "detail": _flag,
    "output": _whole(0),
    "k": _whole(1, MAX_FACTORS),
    "layers": lambda name, text: parse_layers(text),
    "factor": _whole(0, MAX_FACTORS - 1),
    "by": _one_of(*BYS),
    "factor_method": _one_of(*FACTOR_METHODS),
    "positions": _one_of(*POSITIONS),
    "negatives": _one_of(*NEGATIVES),
    "scale": _flag,
    "seed": _whole(0, 2**31 - 1),
    "reruns": _whole(0, MAX_RERUNS),
    "layer": _whole(0),
    "order": _one_of(*NEURON_ORDERS),
    "clusters": _whole(1, MAX_CLUSTERS),
    "most": _whole(1, MAX_DRAWN),
    "cell": _cell,
    "watch": _watched,
}

_SAID: dict[str, Callable[[Any], str]] = {
    "cell": lambda cell: f"{cell[0]}.{cell[1]}",
    "watch": "\n".join,
}

_CORPUS_READERS: dict[str, Callable[[str, str], Any]] = {
    "search": lambda name, text: text,
    "run": _whole(0),
    "sort": _one_of(*(order for order in ORDERS if order != "random")),
    "descending": _flag,
    "page": _whole(1, 10**9),
}

_SQL_READERS: dict[str, Callable[[str, str], Any]] = {
    "sql": lambda name, text: text,
    "run": _flag,
    "chart": _one_of("line", "bar", "scatter", "histogram"),
    "x": lambda name, text: text,
    "y": lambda name, text: text,
}

_FACTORS_READERS: dict[str, Callable[[str, str], Any]] = {
    **{name: _READERS[name] for name in ("k", "layers", "positions", "negatives", "seed", "reruns")},
    "method": _READERS["factor_method"],
    "scale_layers": _flag,
    **dict.fromkeys(("where", "name"), lambda name, text: text),
}

_NEURON_READERS: dict[str, Callable[[str, str], Any]] = {
    "layer": _whole(0),
    "neuron": _whole(0),
    "run": _whole(0),
    "generated": _flag,
    **dict.fromkeys(("token", "key", "value", "where"), lambda name, text: text),
    "n": _whole(1, 40),
    "seed": _whole(0),
    **dict.fromkeys(("log", "whole", "related"), _flag),
}
