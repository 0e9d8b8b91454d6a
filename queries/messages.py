"""DuckDB's messages as one line that a person can act on."""

import difflib
import re

import duckdb

from ..errors import QueryError

_UNKNOWN_TABLE = re.compile(r'Table with name "?(?:[\w.]+\.)?(?P<name>\w+)"? does not exist')
_UNKNOWN_COLUMN = re.compile(r'does not have a column named "(?P<name>\w+)"')
_SUGGESTION = re.compile(r'\s*Did you mean "[^"]*"\?')
_ADVICE = re.compile(r"\s*Possible solutions:.*")
_OVERLOADS = re.compile(r"\s*Candidate functions: (?P<list>.*)")
_NO_PAGE = re.compile(
    r"TProtocolException: |don't know what type:|Variable-length int over |Out of buffer|No more data to"
)
_MOST_OVERLOADS = 200  # characters; `+` has 60 of them


def query_error(error: Exception, connection: duckdb.DuckDBPyConnection | None = None) -> QueryError:
    """DuckDB's message in one line, with its hint and without the picture of the query.

    Where DuckDB knows no near name, or names a table of its own, the nearest of the connection's is added.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("LINE ") and set(line) != {"^"})
    text = _ADVICE.sub("", text).replace("actlake://", "")  # StoreFiles' name for the store
    if type(error) is duckdb.Error and _NO_PAGE.match(text):  # a page's header; DuckDB does not say of which file
        text = f"a data file is damaged ({text}); `actlake verify --deep` names it"
    overloads = _OVERLOADS.search(text)
    if overloads and len(overloads["list"]) > _MOST_OVERLOADS:
        text = text[: overloads.start()]
    return QueryError(_with_nearest(text, connection) if connection else text)


def _with_nearest(text: str, connection: duckdb.DuckDBPyConnection) -> str:
    if match := _UNKNOWN_TABLE.search(text):
        tables = _names(connection, "select distinct table_name from information_schema.tables order by 1")
        near = difflib.get_close_matches(match["name"].lower(), tables, n=1)
        hint = f'Did you mean "{near[0]}"?' if near else f"There are {', '.join(tables)}"
        return f"{_SUGGESTION.sub('', text)} {hint}"
    if match := _UNKNOWN_COLUMN.search(text):
        columns = _names(connection, "select distinct column_name from information_schema.columns order by 1")
        near = difflib.get_close_matches(match["name"].lower(), columns, n=1)
        return f'{text}. Did you mean "{near[0]}"?' if near else text
    return text


def _names(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    try:
        return [name for (name,) in connection.cursor().execute(query).fetchall()]
    except duckdb.Error:  # a hint is not worth a second error
        return []
