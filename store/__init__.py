"""Where activations lie: tables, shards, the commit log and its snapshots. Knows neither models nor SQL."""

from .compact import Compacted, compact
from .factorizations import Factorization, save_factorization, saved_tokens
from .footers import Footers
from .gc import Collected, gc
from .index import Indexed, index, partly_indexed
from .labels import save_label
from .location import Location
from .log import Commit, DataFile, Log, Range, Reservation, Snapshot
from .positions import Positions
from .precision import PRECISIONS, Precision, rounded
from .ranges import parse_ranges
from .reader import Batch, Reader
from .schema import DEFAULT_RECORDS, GRADIENT_TARGETS, RECORDS, TABLES, Column, GradientTarget, Record, Table
from .shapes import Shape, shapes
from .shard import CapturedGeneration, CapturedPredictions, CapturedTokens, write_shard, write_table
from .sizes import parse_bytes
from .verify import Report, verify

__all__ = [
    "DEFAULT_RECORDS",
    "GRADIENT_TARGETS",
    "PRECISIONS",
    "RECORDS",
    "TABLES",
    "Batch",
    "CapturedGeneration",
    "CapturedPredictions",
    "CapturedTokens",
    "Collected",
    "Column",
    "Commit",
    "Compacted",
    "DataFile",
    "Factorization",
    "Footers",
    "GradientTarget",
    "Indexed",
    "Location",
    "Log",
    "Positions",
    "Precision",
    "Range",
    "Reader",
    "Record",
    "Report",
    "Reservation",
    "Shape",
    "Snapshot",
    "Table",
    "compact",
    "gc",
    "index",
    "parse_bytes",
    "parse_ranges",
    "partly_indexed",
    "rounded",
    "save_factorization",
    "save_label",
    "saved_tokens",
    "shapes",
    "verify",
    "write_shard",
    "write_table",
]
