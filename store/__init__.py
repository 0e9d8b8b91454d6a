"""Where activations lie: tables, shards, the commit log and its snapshots. Knows neither models nor SQL."""

from .location import Location
from .log import Commit, DataFile, Log, Reservation, Snapshot
from .precision import PRECISIONS, Precision, rounded
from .ranges import parse_ranges
from .reader import Reader
from .schema import RECORDS, TABLES, Column, Record, Table
from .shard import CapturedGeneration, CapturedTokens, write_shard, write_table
from .verify import Report, verify

__all__ = [
    "PRECISIONS",
    "RECORDS",
    "TABLES",
    "CapturedGeneration",
    "CapturedTokens",
    "Column",
    "Commit",
    "DataFile",
    "Location",
    "Log",
    "Precision",
    "Reader",
    "Record",
    "Report",
    "Reservation",
    "Snapshot",
    "Table",
    "parse_ranges",
    "rounded",
    "verify",
    "write_shard",
    "write_table",
]
