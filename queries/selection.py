"""Which tokens a predicate selects: a SQL condition that someone else wrote, on the columns of `tokens` and `generations`."""

from collections.abc import Callable, Mapping

import duckdb
import numpy as np
from jaxtyping import Int64

from ..errors import check_text
from .comments import literal
from .corpus_tokens import token_numbers
from .limits import Limits
from .messages import query_error
from .sandbox import QueryResult

READ = Callable[..., QueryResult]
"""`Store.read_sql`."""


def selected_tokens(read_sql: READ, predicate: str, n_tokens: int) -> Int64[np.ndarray, "some"]:
    """The numbers of the tokens where `predicate` holds, of at most `n_tokens`; where it is null it does not hold.

    DuckDB's own parser takes it for one expression, and it is evaluated where other people's SQL is (`Store.read_sql`).
    Raises QueryError, QueryStopped, QueryAborted.
    """
    limits = Limits(rows=max(n_tokens, Limits().rows))
    with read_sql(selection_query(predicate), limits=limits) as rows:
        table = rows.to_arrow_table()
    return token_numbers(*(table[name].to_numpy() for name in ("generation_id", "position")))


def token_condition(token: str = "", metadata: Mapping[str, str] | None = None, where: str = "") -> str | None:
    """A SQL condition on the columns of `tokens` and `generations`, for all that takes `where`; None for all tokens.

    `token` is a token's text, whatever its case and the white space around it (unless it is white space alone); `metadata` are
    values that the generation's has by their keys; `where` is a condition as it is.

    >>> token_condition("The")
    "lower(trim(token, concat(' ', chr(9), chr(10), chr(13)))) = 'the'"
    """
    parts = []
    if token.strip():
        parts.append(f"lower(trim(token, concat(' ', chr(9), chr(10), chr(13)))) = {literal(token.strip().lower())}")
    elif token:
        parts.append(f"token = {literal(token)}")
    for key, value in (metadata or {}).items():
        parts.append(f"cast(metadata::json as map(varchar, json))[{literal(key)}] ->> '$' = {literal(value)}")
    if where.strip():
        parts.append(f"({where})" if parts else where)
    return " and ".join(parts) or None


def selection_query(predicate: str) -> str:
    """The query that gives generation_id and position of the tokens where a predicate holds. Raises QueryError unless it is
    one expression.

    >>> selection_query("true) or (true")
    Traceback (most recent call last):
    ...
    actlake.errors.QueryError: Parser Error: syntax error at or near ")"
    """
    check_text("where", predicate)
    try:
        expression = str(duckdb.SQLExpression(predicate))
    except duckdb.Error as error:
        raise query_error(error) from error
    return f"""
        select generation_id, position
        from tokens join generations using (generation_id)
        where ({expression})::boolean
        order by generation_id, position
    """
