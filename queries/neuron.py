"""One neuron over a corpus: its statistics, a histogram, and the tokens where it is strongest, or anywhere between.

Everything is taken from the neuron's values themselves, which are one small read, so that any filter gives exact numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from ..errors import InvalidOption
from .corpus_tokens import CorpusTokens, texts_of, token_numbers
from .display import Displayed
from .generation import generation_not_found
from .neuron_values import NeuronReader, NeuronValues
from .related import correlations
from .selection import READ, selected_tokens
from .work import Progress

Sign = Literal["positive", "negative"]
SIGNS: tuple[Sign, ...] = get_args(Sign)

N_BINS = 40
"""Bins of a histogram, unless told."""


@dataclass(frozen=True)
class Neuron(Displayed):
    """A neuron's activations at the tokens that were selected, by generation and position.

    `run_ids` are the runs that it was recorded in (of one model); `where`, `generated_only` and `special` say which of their
    tokens are here. Activations are float32, in the run's precision; 12 bytes a token are held, and as many of
    every token that the neuron was recorded at where not all of them were selected.
    """

    layer: int
    neuron: int
    run_ids: tuple[int, ...]
    model: str
    where: str | None
    generated_only: bool
    special: bool
    values: Float32[np.ndarray, "tokens"] = field(repr=False, compare=False)
    _places: Int64[np.ndarray, "tokens"] = field(repr=False, compare=False)
    _everything: NeuronValues = field(repr=False, compare=False)
    _neurons: NeuronReader = field(repr=False, compare=False)
    _read_sql: READ = field(repr=False, compare=False)

    @property
    def n_tokens(self) -> int:
        return len(self.values)

    @property
    def generation_id(self) -> Int64[np.ndarray, "tokens"]:
        return self._numbers >> 32

    @property
    def position(self) -> Int64[np.ndarray, "tokens"]:
        return self._numbers & 0xFFFFFFFF

    @cached_property
    def stats(self) -> Mapping[str, int | float]:
        """n, mean, std (of the population), min, max and density (the share above 0), in double precision; NaN of no token."""
        if not self.n_tokens:
            return {"n": 0} | dict.fromkeys(("mean", "std", "min", "max", "density"), float("nan"))
        values = self.values.astype(np.float64)
        return {
            "n": self.n_tokens,
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "density": float(np.count_nonzero(values > 0) / self.n_tokens),
        }

    @cached_property
    def histogram(self) -> pd.DataFrame:
        """`binned()` in 40 bins."""
        return self.binned()

    def binned(self, n_bins: int = N_BINS) -> pd.DataFrame:
        """A histogram of bins of one width from the least activation to the greatest: lower, upper, n. A bin has its lower
        edge, and the last its upper one too. No rows of no token, one of equal activations. Raises InvalidOption.

        (`neuron_stats.histogram` in SQL has the same edges for every neuron, eight an octave.)
        """
        _check_count("n_bins", n_bins)
        finite = self.values[np.isfinite(self.values)].astype(np.float64)
        if not len(finite):
            return pd.DataFrame({"lower": np.empty(0), "upper": np.empty(0), "n": np.empty(0, np.int64)})
        least, greatest = finite.min(), finite.max()
        edges = np.linspace(least, greatest, n_bins + 1 if greatest > least else 2)
        counts, _ = np.histogram(finite, edges) if greatest > least else (np.array([len(finite)]), None)
        return pd.DataFrame({"lower": edges[:-1], "upper": edges[1:], "n": counts.astype(np.int64)})

    def filtered(
        self, where: str | None = None, *, generated_only: bool = False, special: bool | None = None
    ) -> "Neuron":
        """The same neuron at fewer tokens: those where `where`, a SQL condition on the columns of `tokens` and
        `generations`, holds too; that the model wrote, if `generated_only`; with special tokens, if `special`.

        Raises QueryError, QueryStopped, QueryAborted.
        """
        special = self.special if special is None else special
        if where is None and not (generated_only and not self.generated_only) and special == self.special:
            return self
        both = " and ".join(f"({part})" for part in (self.where, where) if part) if self.where and where else None
        condition = both or where or self.where
        return neuron_of(
            self._neurons,
            self._read_sql,
            self.layer,
            self.neuron,
            run_ids=self.run_ids,
            where=condition,
            generated_only=self.generated_only or generated_only,
            special=special,
        )

    def activations(self, where: str | None = None, *, generated_only: bool = False) -> pd.DataFrame:
        """generation_id, position and activation of every token, in order."""
        return self.filtered(where, generated_only=generated_only)._frame(slice(None))

    def examples(
        self, sign: Sign = "positive", n: int = 20, where: str | None = None, *, generated_only: bool = False
    ) -> pd.DataFrame:
        """The tokens with the greatest activations above 0 (`positive`), or the least below it, strongest first: generation_id,
        position, activation, token. Of equal ones the earlier comes first. Raises InvalidOption; QueryError.
        """
        if sign not in SIGNS:
            raise InvalidOption("sign", sign, f"choose one of {', '.join(SIGNS)}")
        _check_count("n", n)
        chosen = self.filtered(where, generated_only=generated_only)
        signed = chosen.values if sign == "positive" else -chosen.values
        return chosen._with_tokens(chosen._frame(_strongest(signed, n)))

    def quantile_examples(
        self,
        n_bins: int = 10,
        per_bin: int = 5,
        seed: int = 0,
        where: str | None = None,
        *,
        generated_only: bool = False,
    ) -> pd.DataFrame:
        """Tokens drawn at random, `per_bin` from each of `n_bins` bins that hold equally many tokens: bin (0 has the least
        activations), lower and upper (the least and greatest activation in the bin), generation_id, position, activation,
        token; in a bin the greatest activation first.

        Bins are cut by all values, exactly: their sizes differ by one at most, so equal activations may lie in two. The same
        tokens and seed give the same draw. Raises InvalidOption; QueryError.
        """
        _check_count("n_bins", n_bins)
        _check_count("per_bin", per_bin)
        chosen = self.filtered(where, generated_only=generated_only)
        order = np.argsort(chosen.values, kind="stable")
        order = order[: np.count_nonzero(~np.isnan(chosen.values))]  # NaNs are sorted last
        random = np.random.default_rng(seed)
        bins = [tokens for tokens in np.array_split(order, n_bins) if len(tokens)]
        drawn = [
            tokens[np.sort(random.choice(len(tokens), min(per_bin, len(tokens)), replace=False))[::-1]]
            for tokens in bins
        ]
        number = np.repeat(np.arange(len(bins)), [len(tokens) for tokens in drawn])
        least, greatest = (np.array([tokens[end] for tokens in bins], np.int64)[number] for end in (0, -1))
        edges = {"lower": chosen.values[least], "upper": chosen.values[greatest]}
        frame = chosen._frame(np.concatenate([order[:0], *drawn]))
        found = chosen._with_tokens(frame).assign(bin=number, **edges)
        return found[["bin", "lower", "upper", "generation_id", "position", "activation", "token"]]

    def context(self, generation_id: int) -> pd.DataFrame:
        """position, token and activation of a whole generation: NaN where it was not recorded. Raises GenerationNotFound."""
        rows = self.contexts([generation_id])
        if rows.empty:
            raise generation_not_found(generation_id, self._neurons.snapshot, self._neurons.reader)
        return rows.drop(columns="generation_id")

    def contexts(self, generation_ids: Iterable[int], columns: Sequence[str] = ("token",)) -> pd.DataFrame:
        """generation_id, position, token (or other columns of `tokens`) and activation of whole generations, in order, whatever
        tokens were selected; NaN where the neuron was not recorded, and no row of a generation that is not there."""
        rows = texts_of(self._neurons.snapshot, self._neurons.reader, generation_ids, columns)
        everything = self._everything
        numbers = rows["generation_id"].to_numpy().astype(np.int64) << 32 | rows["position"].to_numpy()
        places = self._corpus.places(numbers)
        at = np.searchsorted(everything.places, places)
        at[at == len(everything.places)] = 0
        there = everything.places[at] == places if len(everything.places) else np.zeros(len(at), bool)
        activation = np.full(len(at), np.nan, np.float32)
        activation[there] = everything.values[at[there]]
        frame = rows.to_pandas()
        return frame.assign(activation=activation)

    def related(
        self,
        n: int = 10,
        layers: Sequence[int] | None = None,
        *,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> pd.DataFrame:
        """The neurons whose activations go with this one's, over its tokens: layer, neuron, correlation (Pearson's r), the
        farthest from 0 first. Of the same layer, unless `layers` are named.

        Cost: one pass over the layers' vectors; `cancel`, once set, ends it, and `on_progress` is told of tokens, once for each
        layer. Raises UnknownLayer, InvalidOption, Cancelled.
        """
        _check_count("n", n)
        asked = [self.layer] if layers is None else sorted(set(layers))
        frame = correlations(
            self._neurons, self._places, self.values, asked, self.run_ids, cancel=cancel, on_progress=on_progress
        )
        others = frame[(frame["layer"] != self.layer) | (frame["neuron"] != self.neuron)]
        order = np.argsort(-others["correlation"].abs().to_numpy(), kind="stable")
        return others.iloc[order[:n]].reset_index(drop=True)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were recorded beside this one, in its first run."""
        return self._neurons.runs[self.run_ids[0]].shape.layers

    @property
    def neurons(self) -> Sequence[int]:
        """The neurons of each layer that were recorded, in its first run."""
        return self._neurons.runs[self.run_ids[0]].shape.neurons

    @property
    def _corpus(self) -> CorpusTokens:
        return self._neurons.tokens

    @property
    def _numbers(self) -> Int64[np.ndarray, "tokens"]:
        return self._corpus.numbers[self._places]

    def _frame(self, chosen: slice | Int64[np.ndarray, "some"]) -> pd.DataFrame:
        numbers = self._corpus.numbers[self._places[chosen]]
        columns = {
            "generation_id": numbers >> 32,
            "position": (numbers & 0xFFFFFFFF).astype(np.int32),
            "activation": self.values[chosen],
        }
        return pd.DataFrame(columns)

    def _with_tokens(self, frame: pd.DataFrame) -> pd.DataFrame:
        numbers = token_numbers(frame["generation_id"].to_numpy(), frame["position"].to_numpy())
        return frame.assign(token=self._neurons.texts(np.searchsorted(self._corpus.numbers, numbers)))


def neuron_of(
    neurons: NeuronReader,
    read_sql: READ,
    layer: int,
    neuron: int,
    *,
    run_ids: Sequence[int],
    where: str | None,
    generated_only: bool,
    special: bool,
) -> Neuron:
    """A neuron at the tokens of these runs that are selected."""
    found, corpus = neurons.values(layer, neuron), neurons.tokens
    wanted = neurons.in_runs(run_ids)
    if not special:
        wanted &= ~corpus.is_special
    if generated_only:
        wanted &= corpus.is_generated
    if where is not None:
        wanted &= corpus.marked(selected_tokens(read_sql, where, len(corpus)))
    kept = wanted[found.places]
    places, values = (found.places, found.values) if kept.all() else (found.places[kept], found.values[kept])
    return Neuron(
        layer=layer,
        neuron=neuron,
        run_ids=tuple(run_ids),
        model=neurons.runs[run_ids[0]].model,
        where=where,
        generated_only=generated_only,
        special=special,
        values=values,
        _places=places,
        _everything=found,
        _neurons=neurons,
        _read_sql=read_sql,
    )


def _strongest(values: Float32[np.ndarray, "tokens"], n: int) -> Int64[np.ndarray, "some"]:
    """Where the greatest values above 0 are, the greatest first; of equal ones the earlier."""
    above = np.flatnonzero(values > 0)
    if len(above) > n:
        least = np.partition(values[above], len(above) - n)[len(above) - n]
        above = above[values[above] >= least]
    return above[np.argsort(-values[above], kind="stable")][:n]


def _check_count(option: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(option, value, "give a whole number, 1 or more")
