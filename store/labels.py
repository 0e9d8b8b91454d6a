"""People's names for factors and neurons: each naming is a row of `label_changes`, and the newest of a thing counts."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from .log import DataFile, Log
from .numbered import commit_numbered
from .schema import LABEL_CHANGES
from .shard import write_table


def save_label(log: Log, label: str, thing: Mapping[str, int | None]) -> int:
    """Commit a label of a thing, named by its columns of `label_changes`; gives the change's number.

    Raises DiskFull or StoreReadOnly, leaving nothing.
    """

    def write(number: int) -> list[DataFile]:
        now = datetime.now(UTC).replace(tzinfo=None)
        row = {"label_id": number, "label": label, "created_at": now, **thing}
        return [write_table(log.location, LABEL_CHANGES, pa.Table.from_pylist([row], schema=LABEL_CHANGES.arrow))]

    return commit_numbered(log, "label", LABEL_CHANGES, write)
