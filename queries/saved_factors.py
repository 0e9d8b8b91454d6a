"""What is shown of a saved factorization: the tokens and neurons where each factor is strongest, and no more of it than that.

A factorization may be of a corpus that fits into no memory, so its tables are asked for the few rows that a page has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import FactorizationNotFound, InvalidOption

if TYPE_CHECKING:
    from .database import Store

MOST = 100

TOP_TOKENS = """
    select factor, generation_id, position, value
    from (
        select
            factor,
            unnest(
                min(
                    {
                        'before': -abs(value),
                        'generation_id': generation_id,
                        'position': position,
                        'value': value
                    },
                    $n
                ),
                recursive := true
            )
        from factor_tokens
        where factorization_id = $id and factor = coalesce($factor, factor) and value != 0
        group by factor
    )
    order by factor, before, generation_id, position
"""
"""The least structs, which compare member by member, so that of equal values always the same ones are taken."""

TOP_NEURONS = """
    select factor, layer, neuron, weight
    from (
        select
            factor,
            unnest(
                min({'before': -abs(weight), 'layer': layer, 'neuron': neuron, 'weight': weight}, $n),
                recursive := true
            )
        from factor_neurons
        where factorization_id = $id and factor = coalesce($factor, factor) and weight != 0
        group by factor
    )
    order by factor, before, layer, neuron
"""
CONTEXTS = """
    select factor, generation_id, position, token, is_generated, is_special, value
    from tokens
    cross join (select unnest($factors) as factor)
    left join (from factor_tokens where factorization_id = $id) using (factor, generation_id, position)
    where generation_id in (select unnest($ids))
    order by factor, generation_id, position
"""


@dataclass(frozen=True)
class SavedFactors:
    """A saved factorization as people look at it.

    `row` is its row of `factorizations`; `labels` are the names of its factors that have one; `tokens` (factor, generation_id,
    position, value) and `neurons` (factor, layer, neuron, weight) are those of `Factors.top_tokens` and `.top_neurons`, in their
    order.
    """

    row: Mapping[str, Any]
    labels: Mapping[int, str]
    tokens: pd.DataFrame
    neurons: pd.DataFrame
    _store: "Store"

    @property
    def factorization_id(self) -> int:
        return int(self.row["factorization_id"])

    def contexts(self, factor: int) -> pd.DataFrame:
        """The whole generations of a factor's tokens here: generation_id, position, token, is_generated, is_special, value (NaN
        where a token was not factored)."""
        ids = sorted(set(self.tokens.loc[self.tokens["factor"] == factor, "generation_id"].tolist()))
        values = {"id": self.factorization_id, "factors": [factor], "ids": ids}
        with self._store.reading(CONTEXTS, values) as rows:
            return rows.df().drop(columns="factor")


def saved_factors(store: "Store", factorization_id: int, n: int = 10, factor: int | None = None) -> SavedFactors:
    """The `n` strongest tokens and neurons of each factor, or of one. Raises FactorizationNotFound, InvalidOption.

    Cost: one pass over the factorization's rows, and `n` rows a factor in memory.
    """
    if not 1 <= n <= MOST:
        raise InvalidOption("n", n, f"give a whole number from 1 to {MOST}")
    known = store.factorizations()
    mine = known[known["factorization_id"] == factorization_id]
    if mine.empty:
        raise FactorizationNotFound(factorization_id, known["factorization_id"].tolist())
    row = {str(name): value for name, value in mine.to_dict("records")[0].items()}
    if factor is not None and not 0 <= factor < row["k"]:
        raise InvalidOption("factor", factor, f"there are factors 0 to {row['k'] - 1}")
    labels = store.labels()
    named = labels[labels["factorization_id"] == factorization_id]
    return SavedFactors(
        row=row,
        labels=dict(zip(named["factor"].tolist(), named["label"].tolist(), strict=True)),
        tokens=_top(store, TOP_TOKENS, factorization_id, n, factor),
        neurons=_top(store, TOP_NEURONS, factorization_id, n, factor),
        _store=store,
    )


def top_tokens_sql(factorization_id: int, n: int = 10, factor: int | None = None) -> str:
    """The query that gives `SavedFactors.tokens`, its values written in."""
    values: Sequence[tuple[str, int | None]] = (("$factor", factor), ("$id", factorization_id), ("$n", n))
    query = TOP_TOKENS
    for name, value in values:
        query = query.replace(name, "null" if value is None else str(int(value)))
    return query.strip().replace("\n    ", "\n")


def _top(store: "Store", query: str, factorization_id: int, n: int, factor: int | None) -> pd.DataFrame:
    with store.reading(query, {"id": factorization_id, "n": n, "factor": factor}) as rows:
        return rows.df()
