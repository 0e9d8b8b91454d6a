"""People's names for factors and neurons: each naming is a row of `label_changes`, and the newest of a thing counts."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from .log import Commit, DataFile, Log, Snapshot
from .schema import LABEL_CHANGES
from .shard import write_table


def save_label(log: Log, label: str, thing: Mapping[str, int | None]) -> int:
    """Commit a label of a thing, named by its columns of `label_changes`; gives the change's number.

    Raises DiskFull or StoreReadOnly, leaving nothing.
    """
    key, number, files = f"label/{uuid.uuid4().hex}", -1, list[DataFile]()

    def build(snapshot: Snapshot) -> Commit | None:
        nonlocal number, files
        if key in snapshot.keys:  # it arrived, though it seemed not to
            return None
        if number != _next_number(snapshot):
            for file in files:  # of the number that another took
                log.location.delete(file.path)
            number = _next_number(snapshot)
            now = datetime.now(UTC).replace(tzinfo=None)
            row = {"label_id": number, "label": label, "created_at": now, **thing}
            rows = pa.Table.from_pylist([row], schema=LABEL_CHANGES.arrow)
            files = [write_table(log.location, LABEL_CHANGES, rows)]
        return Commit("label", key, files)

    log.commit(build)
    return number


def _next_number(snapshot: Snapshot) -> int:
    return max((file.ranges["label_id"][1] for file in snapshot.of(LABEL_CHANGES.name)), default=-1) + 1
