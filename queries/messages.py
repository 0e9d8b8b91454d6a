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
_OF_A_KIND = re.compile(r"(?!Invalid Error: )[A-Z][\w-]*( [\w-]+)* Error: ")
"""What DuckDB's messages begin with, but for those of the libraries that take pages apart: these have no kind, or
"Invalid Error" where one of DuckDB's own threads met them."""
_MOST_OVERLOADS = 200  # characters; `+` has 60 of them


def is_duckdbs(error: Exception) -> bool:
    """Whether DuckDB said it; through an Arrow stream its errors are OSError, as a full disk is."""
    return isinstance(error, duckdb.Error) or (isinstance(error, OSError) and error.errno is None)


def says_of_no_file(error: Exception) -> bool:
    """Whether it is a page that cannot be taken apart, of which DuckDB does not say in which file."""
    return is_duckdbs(error) and _OF_A_KIND.match(str(error)) is None


def query_error(error: Exception, connection: duckdb.DuckDBPyConnection | None = None) -> QueryError:
    """DuckDB's message in one line, with its hint and without the picture of the query.

    Where DuckDB knows no near name, or names a table of its own, the nearest of the connection's is added.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("LINE ") and set(line) != {"^"})
    text = _ADVICE.sub("", text).replace("actlake://", "")  # StoreFiles' name for the store
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
