"""SQL that someone else wrote: it reads the store's tables; it tries to get out, and to take everything, and cannot."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import actlake
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake.cli import cli
from actlake.errors import (
    ActlakeError,
    CorruptFile,
    InvalidOption,
    MissingFile,
    QueryAborted,
    QueryCancelled,
    QueryError,
    QueryStopped,
)
from actlake.queries import Limits, confine, sandbox, write_rows
from actlake.queries.connection import Database, empty_files
from actlake.queries.files import StoreFiles
from actlake.queries.sandbox_child import lock_settings
from actlake.store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    Footers,
    Location,
    Log,
    Reservation,
    parse_bytes,
    write_shard,
)
from actlake.ui.query import Query
from click.testing import CliRunner

SECRET = "what lies outside"
Ask = Callable[[str], Any]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit that Linux has")


def a_generation(number: int, n: int = 24, p: int = 20) -> CapturedGeneration:
    random = np.random.default_rng(number)
    ints, floats = np.arange(n, dtype=np.int32), random.normal(size=n).astype(np.float32)
    return CapturedGeneration(
        generation_id=number, run_id=0, prompt_index=number, prompt="p", completion="c", n_prompt_tokens=p,
        finish_reason="length", metadata={},
        tokens=CapturedTokens(ints, ["t"] * n, ints, ints + 1, ints > n, floats, ints, floats),
        embeddings=random.normal(size=(n, 8)).astype(np.float32),
        activations={layer: random.normal(size=(n, 32)).astype(np.float32) for layer in range(4)},
        gradients=[random.normal(size=(t, 8)).astype(np.float32) for t in range(p, n)],
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three shards of four generations, in a folder whose name looks like a pattern; beside it, a secret."""
    (tmp_path / "secret.csv").write_text(f"a\n{SECRET}\n")
    pq.write_table(pa.table({"a": [SECRET]}), tmp_path / "secret.parquet")
    location = Location.of(tmp_path / "st[o]re*")
    log = Log(location)
    log.commit(lambda _: Commit("register", "run", reserve=Reservation(0, 0, 100)))
    for shard in range(3):
        files = write_shard(location, [a_generation(4 * shard + i) for i in range(4)], "float32")
        log.commit(lambda _, files=files, shard=shard: Commit("capture", f"unit {shard}", files))
    pq.write_table(pa.table({"a": [SECRET]}), Path(location.root) / "tokens/uncommitted.parquet")
    (Path(location.root) / "tokens/link.parquet").symlink_to(tmp_path / "secret.parquet")
    return Path(location.root)


@pytest.fixture
def store(folder: Path) -> Iterator[actlake.Store]:
    opened = actlake.open(folder)
    yield opened
    opened.close()


Content = dict[str, tuple[int, bytes]]


def through(files: StoreFiles, store: actlake.Store) -> Database:
    return Database(store.snapshot, {}, files, check=Footers(store.location), name_of=files.url)


def content(folder: Path) -> Content:
    """Every file under a folder, with its time and bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


WRITES = [
    "copy tokens to '{out}/x.csv'",
    "copy (select 1) to '{out}/x.parquet' (format parquet)",
    "copy (select 1) to '{shard}' (format parquet)",
    "copy (select 1) to 'actlake://tokens/new.parquet' (format parquet)",
    "copy (select 1) to 'actlake://{name}' (format parquet)",
    "copy (select 1) to 'file://{out}/x.csv'",
    "copy (select 1) to '/dev/shm/actlake-never'",
    "with z as (copy (select 1) to '{out}/x.csv') select * from z",
    "with z as (copy (select 1) to 'actlake://{name}' (format parquet)) select * from z",
    "select * from (with z as (copy (select 1) to '{out}/x.csv') select * from z)",
    "explain analyze copy (select 1) to '{out}/x.csv'",
    "explain analyze with z as (copy (select 1) to '{out}/x.csv') select * from z",
    "export database '{out}/x'",
    "export database 'actlake://x'",
    "attach '{out}/x.db' as other",
    "attach 'actlake://x.db' as other",
    "create table x as select 1; copy x to '{out}/x.csv'",
    "select 1; copy (select 1) to '{out}/x.csv'",
    "select 1 /* ; */; -- \n copy (select 1) to '{out}/x.csv'",
    "from query('copy (select 1) to ''{out}/x.csv''')",
    "from query_table('{out}/x.csv')",
    "prepare p as copy (select 1) to '{out}/x.csv'; execute p",
    "call enable_logging(storage = 'file', storage_path = '{out}/x')",
    "pragma enable_profiling='json'",
    "pragma profiling_output='{out}/x.json'",
    "set temp_directory = '{out}/x'",
    "set log_query_path = '{out}/x'",
    "set secret_directory = '{out}/x'; create persistent secret s (type s3)",
    "install '{out}/x.duckdb_extension'",
    "delete from tokens",
    "drop view tokens",
    "insert into tokens select * from tokens",
]
READS = [
    "from read_csv('{secret}')",
    "from '{secret}'",
    "from read_text('{secret}')",
    "from read_blob('{secret}')",
    "from read_json('{secret}', format = 'auto')",
    "from sniff_csv('{secret}')",
    "from read_parquet('{secret_parquet}')",
    "from '{secret_parquet}'",
    "from parquet_metadata('{secret_parquet}')",
    "from parquet_schema('{secret_parquet}')",
    "from parquet_kv_metadata('{secret_parquet}')",
    "from read_text('file://{secret}')",
    "from read_text('actlake://../secret.csv')",
    "from read_text('actlake:///{secret}')",
    "from read_text('actlake://tokens/../../secret.csv')",
    "from read_parquet('{root}/tokens/uncommitted.parquet')",
    "from read_parquet('actlake://tokens/uncommitted.parquet')",
    "from read_parquet('actlake://tokens/link.parquet')",
    "from read_parquet('{root}/tokens/link.parquet')",
    "from read_text('actlake://_log/00000000000000000000.json')",
    "from read_text('/proc/self/environ')",
    "from read_text('/proc/self/cmdline')",
    "from read_csv('/etc/passwd')",
    "from read_text('/dev/stdin')",
    "from read_text('http://127.0.0.1:9/secret')",
    "from read_text('s3://bucket/secret')",
    "from query('from read_text(''{secret}'')')",
    "from query_table('{secret}')",
    "from json_execute_serialized_sql(json_serialize_sql('from read_text(''{secret}'')'))",
    "select (select max(content) from read_text('{secret}'))",
    "with recursive t as (from read_text('{secret}')) select * from t",
    "explain analyze from read_text('{secret}')",
    "describe from read_csv('{secret}')",
    "summarize from read_csv('{secret}')",
    "attach '{secret}' as other",
    "import database '{out}'",
    "create table x as from read_csv('{secret}')",
    "from mine",
    "from query_table('mine')",
    "select getenv('HOME')",
    "select getenv('ACTLAKE_SECRET')",
    "load httpfs",
    "install httpfs",
    "install httpfs from 'http://127.0.0.1:9'",
    "create secret s (type s3, key_id 'a', secret 'b')",
]
LISTS = ["from glob('/etc/*')", "from glob('{out}/*')", "from glob('actlake://*')", "from glob('actlake://**')"]
TEXTS = [  # of a value: in CSV, in JSON
    ("1.0::float", "1.0", "1.0"),
    ("'nan'::double", "nan", "NaN"),
    ("null", "", "null"),
    ("true", "True", "true"),
    ("170141183460469231731687303715884105727", *2 * ["170141183460469231731687303715884105727"]),
    ("1.50::decimal(9, 2)", "1.50", '"1.50"'),
    ("[1.5::decimal(4, 1)]", '"[""1.5""]"', '["1.5"]'),
    ("'é,\"\n'", '"é,""\n"', '"é,\\"\\n"'),
    ("'b'::enum('a', 'b')", "b", '"b"'),
    ("date '2024-02-29'", "2024-02-29", '"2024-02-29"'),
    ("timestamptz '2024-01-01 00:00:00+00'", "2024-01-01 00:00:00+00:00", '"2024-01-01 00:00:00+00:00"'),
    (
        "timestamp_ns '1924-01-01 00:00:00.123456789'",
        "1924-01-01 00:00:00.123456789",
        '"1924-01-01 00:00:00.123456789"',
    ),
    ("timestamp_ns '2024-01-01 00:00:00'", "2024-01-01 00:00:00", '"2024-01-01 00:00:00"'),
    ("{'a': 1, 'b': ['x']}", '"{""a"": 1, ""b"": [""x""]}"', '{"a": 1, "b": ["x"]}'),
    ("map {'k': 1}", '"[[""k"", 1]]"', '[["k", 1]]'),
]
ENUM_BOMB = (
    "from query('select '''||repeat('x',4000000)||'''::enum('''||repeat('x',4000000)||''') as e from range(100)')"
)
SETTINGS = [
    "set threads = 1",
    "reset threads",
    "set enable_external_access = true",
    "set global lock_configuration = false",
    "set disabled_filesystems = ''",
    "set allowed_directories = ['/']",
    "set memory_limit = '100GB'",
    "set max_execution_time = 0",
    "set python_enable_replacements = true",
    "pragma memory_limit = '100GB'",
]
CHANGES = [*SETTINGS, "attach ':memory:' as other", "use other", "create view x as select 1", "create macro f() as 1"]


def filled(query: str, folder: Path) -> str:
    shard = next(path for path in (folder / "tokens").iterdir() if path.name[0] == "0")
    return query.format(
        out=folder.parent, root=folder, secret=folder.parent / "secret.csv", shard=shard,
        secret_parquet=folder.parent / "secret.parquet", name=f"tokens/{shard.name}",
    ).replace("'''", "''")  # fmt: skip


def what_it_gives(ask: Ask, query: str) -> tuple[str, str]:
    """The rows as text, and the error as text, of which one is empty."""
    mine = pa.table({"a": [SECRET]})  # a replacement scan would find it
    try:
        return str(ask(query)), ""
    except (ActlakeError, duckdb.Error, OSError) as error:
        return "", str(error)
    finally:
        del mine


def tried(ask: Ask, queries: list[str], folder: Path) -> dict[str, tuple[str, str]]:
    """What each query gives, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(
            zip(queries, pool.map(lambda query: what_it_gives(ask, filled(query, folder)), queries), strict=True)
        )


class Escapes:
    """What holds however the query is asked; `ask` gives its rows."""

    @pytest.fixture
    def ask(self, store: actlake.Store) -> Ask:
        raise NotImplementedError

    def test_nothing_is_written(self, ask: Ask, folder: Path) -> None:
        before = content(folder.parent)
        tried(ask, WRITES, folder)
        assert content(folder.parent) == before
        assert not Path("/dev/shm/actlake-never").exists()

    def test_nothing_outside_is_read(self, ask: Ask, folder: Path) -> None:
        for query, (rows, said) in tried(ask, READS, folder).items():
            assert SECRET not in rows + said, query
            assert "root:" not in said, query
            assert rows in ("", "[]", "[(None,)]"), query

    def test_no_folder_is_listed(self, ask: Ask, folder: Path) -> None:
        for query, (rows, said) in tried(ask, LISTS, folder).items():
            assert rows in ("", "[]"), query
            assert "passwd" not in said, query
            assert "secret" not in said, query

    def test_no_setting_changes(self, ask: Ask, folder: Path) -> None:
        for query, (_, said) in tried(ask, SETTINGS, folder).items():
            assert "locked" in said or "only statements that read" in said, query

    def test_the_tables_are_there(self, ask: Ask) -> None:
        assert ask("select count(*) from tokens join generations using (generation_id)") == [(288,)]


class TestAsAPersonAsks(Escapes):
    """`read_sql`, and so `actlake sql`: every layer."""

    @pytest.fixture
    def ask(self, store: actlake.Store, monkeypatch: pytest.MonkeyPatch) -> Ask:
        monkeypatch.setenv("ACTLAKE_SECRET", SECRET)
        return lambda query: store.read_sql(query).fetchall()

    def test_what_does_not_read_is_refused_in_one_line(self, ask: Ask, folder: Path) -> None:
        for query, (_, said) in tried(ask, [*WRITES, *CHANGES], folder).items():
            assert len(said.splitlines()) == 1, query
            assert "Traceback" not in said, query

    def test_no_secret_is_there(self, ask: Ask) -> None:
        assert ask("from duckdb_secrets()") == []


@pytest.mark.slow
class TestWithoutTheParseCheck(Escapes):
    """The process alone: DuckDB's settings, the read-only file system, the kernel."""

    @pytest.fixture
    def ask(self, store: actlake.Store, monkeypatch: pytest.MonkeyPatch) -> Ask:
        monkeypatch.setattr(sandbox, "START", without("check_reads_only"))
        return lambda query: store.read_sql(query).fetchall()


@pytest.mark.slow
class TestWithoutDuckDBsSettings(Escapes):
    """The read-only file system and the kernel: DuckDB itself may open what it likes."""

    @pytest.fixture
    def ask(self, store: actlake.Store, monkeypatch: pytest.MonkeyPatch) -> Ask:
        has_landlock()
        monkeypatch.setattr(sandbox, "START", without("check_reads_only", "lock_settings"))
        return lambda query: store.read_sql(query).fetchall()

    def test_no_setting_changes(self, ask: Ask, folder: Path) -> None:
        """They do, here."""

    def test_nothing_outside_is_read(self, ask: Ask, folder: Path) -> None:
        inside = ("{root}", "mine", "load ", "_log")  # of the store, or of Python's process
        reads = [query for query in READS if not any(part in query for part in inside)]
        for query, (rows, said) in tried(ask, reads, folder).items():
            assert SECRET not in rows + said, query
            assert "root:" not in rows, query

    def test_no_folder_is_listed(self, ask: Ask, folder: Path) -> None:
        for query, (rows, _) in tried(ask, LISTS, folder).items():
            assert rows in ("", "[]"), query


class TestDuckDBsSettingsAlone(Escapes):
    """In this very process, on one connection: neither the parse check nor the kernel."""

    @pytest.fixture
    def ask(self, store: actlake.Store, folder: Path) -> Iterator[Ask]:
        files = StoreFiles(store.location, list(store.snapshot.files), empty_files())
        connection = through(files, store).connect()
        lock_settings(connection)
        yield lambda query: connection.cursor().sql(query).fetchall()
        connection.close()


@LINUX
class TestTheKernelAlone:
    """In a confined process without DuckDB: plain Python tries."""

    def test_it_reads_the_store_and_nothing_else(self, folder: Path) -> None:
        shard = next(path for path in (folder / "tokens").iterdir() if path.name[0] == "0")
        said = confined(
            folder,
            f"""
            result["shard"] = len(open({str(shard)!r}, "rb").read())
            for path in ({str(folder.parent / "secret.csv")!r}, {str(folder / "tokens/link.parquet")!r},
                         "/etc/passwd", "/proc/self/environ"):
                attempt(path, lambda: open(path, "rb").read())
            attempt("list", lambda: os.listdir({str(folder.parent)!r}))
        """,
        )
        assert said.pop("shard") == shard.stat().st_size
        assert set(said.values()) == {"PermissionError"}

    def test_it_writes_starts_and_reaches_nothing(self, folder: Path) -> None:
        before = content(folder.parent)
        said = confined(
            folder,
            f"""
            for path in ({str(folder / "tokens/x")!r}, {str(folder.parent / "x")!r}, "/tmp/actlake-never", "/dev/shm/x"):
                attempt(path, lambda: open(path, "wb"))
            attempt("mkdir", lambda: os.mkdir({str(folder / "x")!r}))
            attempt("unlink", lambda: os.unlink({str(folder.parent / "secret.csv")!r}))
            attempt("rename", lambda: os.rename({str(folder / "README.md")!r}, {str(folder / "x")!r}))
            attempt("start", lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]))
            attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9), timeout=2))
            attempt("signal", lambda: os.kill(os.getppid(), 0))
        """,
        )
        assert content(folder.parent) == before
        newer = {"connect": 4, "signal": 6}  # versions of Landlock
        assert set(said.values()) == {"PermissionError"} or all(
            confine.landlock_version() < newer[what] for what, error in said.items() if error != "PermissionError"
        )

    def test_a_file_that_is_open_already_cannot_grow(self, folder: Path, tmp_path: Path) -> None:
        said = confined(folder, "attempt('grow', lambda: os.write(1, b'x' * 100) and 0)", stdout=tmp_path / "out")
        assert said["grow"] == "OSError"
        assert (tmp_path / "out").read_bytes() == b""


def without(*names: str) -> str:
    """The child's start, with layers of it taken out."""
    changes = [f"sandbox_child.{name} = lambda *_, **__: None" for name in names]
    *start, last = sandbox.START.strip().splitlines()
    return "\n".join([*start, *changes, last])


def has_landlock() -> None:
    if not sys.platform.startswith("linux") or confine.landlock_version() < 1:
        pytest.skip("this kernel has no Landlock")


def confined(folder: Path, code: str, stdout: Path | None = None) -> dict[str, Any]:
    """What attempts in a process that confined itself to a store came to."""
    has_landlock()
    script = f"""
import json, os, socket
from actlake.queries import sandbox_child
from actlake.store import Location
sandbox_child.confine(Location.of({str(folder)!r}))
result = {{}}
def attempt(what, act):
    try:
        result[what] = act() or "done"
    except Exception as error:
        result[what] = type(error).__name__
{textwrap.dedent(code)}
os.write(2, json.dumps(result).encode())
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    with open(stdout or os.devnull, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            check=False,
        )
    return json.loads(done.stderr)


class TestLimits:
    """Each query ends: by itself, at a limit, or when it is told to."""

    @pytest.mark.parametrize(
        "query",
        [
            "select len(range(400000000))",
            "select len(list_transform(range(400000000), lambda x: [x, x]))",
            "select repeat('x', 1000000000) || repeat('y', 1000000000)",
            "select range(1000000) from range(1000000)",
            "select list(a.i || b.i) from range(100000) a(i), range(100000) b(i)",
            "select * from range(1000000000) t(i) order by hash(i)",
            "select string_agg(repeat('x', 100000), ',') from range(1000000)",
        ],
    )
    def test_a_memory_bomb_ends_within_its_memory_and_time(self, folder: Path, query: str) -> None:
        script = f"""
import json, resource, sys, time
import actlake
from actlake.queries import Limits
start = time.perf_counter()
try:
    with actlake.open({str(folder)!r}).read_sql({query!r}, limits=Limits(memory_bytes=2**30, seconds=8)) as rows:
        for batch in rows:
            pass
    said = ["none"]
except actlake.ActlakeError as error:
    said = [type(error).__name__, *error.args]
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({{"said": said, "seconds": time.perf_counter() - start, "peak": peak * 1024}}))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        assert result["said"] in (["QueryStopped", "memory_bytes", 2**30], ["QueryStopped", "seconds", 8])
        assert result["seconds"] < 30
        assert result["peak"] < 2**30 + 150 * 2**20  # the libraries' own pages are shared

    @LINUX
    @pytest.mark.parametrize(
        "query",
        [
            ENUM_BOMB,
            "select list({'a': 1::tinyint}) as a from range(4000000)",
        ],
    )
    def test_rows_that_grow_as_python_values_do_so_in_the_querys_process(self, folder: Path, query: str) -> None:
        script = f"""
import os, actlake
from actlake.errors import ActlakeError
from actlake.queries import Limits, write_rows
from actlake.ui.query import Query
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
store = actlake.open({str(folder)!r})
before = peak()
Query(store, {query!r}).payload()
for how in ("csv", "json"):
    with open(os.devnull, "wb") as output, store.read_sql({query!r}, limits=Limits(2**30, seconds=10)) as rows:
        try:
            write_rows(rows, output, how)
        except ActlakeError:
            pass
print(peak() - before)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 200  # MiB

    @pytest.mark.parametrize(
        "query",
        [
            "with recursive t as (select 1 as a union all select a + 1 from t) select max(a) from t",
            "select count(*) from activations a, activations b, activations c where a.activation < b.activation",
            "select count(*) from tokens a, tokens b, tokens c, tokens d, tokens e, tokens f",
        ],
    )
    def test_a_query_without_end_ends_in_time(self, store: actlake.Store, query: str) -> None:
        started = time.monotonic()
        with pytest.raises(QueryStopped, match=r"limit of 1\.5 seconds.*--timeout"):
            store.read_sql(query, limits=Limits(seconds=1.5)).fetchall()
        assert time.monotonic() - started < 15

    def test_the_row_limit_is_an_error_after_the_rows_so_far(self, store: actlake.Store) -> None:
        seen: list[int] = []
        rows = store.read_sql("from range(1000000000)", limits=Limits(rows=5000))
        with pytest.raises(QueryStopped, match=r"5,000 rows.*--max-rows") as caught:
            seen.extend(number for batch in rows for number in batch[0].to_pylist())
        assert seen == list(range(5000))
        assert caught.value.args == ("rows", 5000)

    def test_as_many_rows_as_the_limit_are_no_error(self, store: actlake.Store) -> None:
        assert len(store.read_sql("from range(5000)", limits=Limits(rows=5000)).fetchall()) == 5000
        assert store.read_sql("from range(0)", limits=Limits(rows=1)).to_arrow_table().num_rows == 0

    def test_what_is_collected_is_bounded_too(self, store: actlake.Store) -> None:
        with pytest.raises(QueryStopped) as caught:
            store.read_sql("select repeat('x', 100000) from range(100000)", limits=Limits(2**29)).to_arrow_table()
        assert caught.value.args == ("memory_bytes", 2**29)

    @pytest.mark.parametrize("limits", [{"memory_bytes": 10}, {"rows": 0}, {"seconds": 0}, {"seconds": float("nan")}])
    def test_a_limit_that_cannot_be_is_refused(self, limits: dict[str, Any]) -> None:
        with pytest.raises(InvalidOption):
            Limits(**limits)
        with pytest.raises(InvalidOption, match="512MB or 2GB"):
            parse_bytes("much")

    def test_a_query_is_cancelled_from_another_thread(self, store: actlake.Store) -> None:
        rows = store.read_sql("select count(*) from range(100000000000) a, range(1000) b")
        threading.Timer(0.3, rows.cancel).start()
        started = time.monotonic()
        with pytest.raises(QueryCancelled):
            rows.fetchall()
        assert time.monotonic() - started < 15

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_process_that_is_killed_midway_is_an_error_never_a_short_answer(
        self, store: actlake.Store, number: int
    ) -> None:
        rows = store.read_sql("from range(1000000000)", limits=Limits(rows=10**9))
        batches = iter(rows)
        next(batches)
        os.kill(rows._child._process.pid, number)
        with pytest.raises(QueryAborted, match=r"killed from outside|on signal 11"):
            list(batches)

    def test_no_process_is_left(self, store: actlake.Store) -> None:
        store.keep_spare()
        store.read_sql("select 1").fetchall()
        with store.read_sql("from range(1000000000)") as rows:
            next(iter(rows))
        dropped = store.read_sql("from range(1000000000)")
        next(iter(dropped))
        del dropped
        with pytest.raises(QueryError):
            store.read_sql("from nothing")
        store.close()
        assert children() == []

    def test_it_dies_with_its_parent(self, folder: Path) -> None:
        script = f"""
import os, signal, actlake
store = actlake.open({str(folder)!r})
rows = store.read_sql("select count(*) from range(100000000000) a, range(1000) b")
store.keep_spare()
print(rows._child._process.pid, store._sandbox._spare._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        for pid in map(int, done.stdout.split()):
            until(lambda pid=pid: not alive(pid))

    def test_ctrl_c_ends_the_command_and_the_process_of_its_query(self, folder: Path, tmp_path: Path) -> None:
        query = "select count(*) from range(100000000000) a, range(1000) b"
        command = [sys.executable, "-m", "actlake", "sql", str(folder), query, "-o", str(tmp_path / "out.txt")]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until(lambda: any(tmp_path.glob(".out.txt.*.draft")))
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60)[1] == "actlake: the query was cancelled\n"
        assert running.returncode == 1
        assert not [path for path in tmp_path.iterdir() if "out.txt" in path.name]


class TestAnswers:
    """What `read_sql` gives when all is well, and how it says that something is not."""

    def test_rows_are_those_of_the_callers_own_duckdb(self, store: actlake.Store) -> None:
        for query in (
            "from tokens order by all",
            "from gradients order by all",
            "select * from generations order by 1",
        ):
            mine, theirs = store.sql(query), store.read_sql(query)
            assert (theirs.columns, theirs.types) == (tuple(mine.columns), tuple(map(str, mine.types)))
            assert theirs.fetchall() == mine.fetchall()
        table = store.read_sql("from activation_vectors order by all").to_arrow_table()
        assert table.equals(store.sql("from activation_vectors order by all").to_arrow_table())
        assert store.read_sql("select 1 as a").df()["a"].tolist() == [1]

    @pytest.mark.parametrize("how", ["csv", "json"])
    def test_values_have_their_text_in_a_process_without_pandas_and_numpy(
        self, store: actlake.Store, how: Literal["csv", "json"]
    ) -> None:
        query = f"select {', '.join(f'{value} as c{i}' for i, (value, _, _) in enumerate(TEXTS))}"
        for rows in (store.read_sql, store.sql):
            written = io.BytesIO()
            write_rows(rows(query), written, how)
            if how == "csv":
                assert written.getvalue().decode().endswith("\n" + ",".join(text for _, text, _ in TEXTS) + "\n")
            else:
                texts = ", ".join(f'"c{i}": {text}' for i, (_, _, text) in enumerate(TEXTS))
                assert written.getvalue().decode() == f"{{{texts}}}\n"

    def test_a_value_that_python_has_none_of_is_one_line(self, store: actlake.Store) -> None:
        for query in ("select date 'infinity'", "select [timestamp_ns '2024-01-01 00:00:00.123456789']"):
            with pytest.raises(QueryError, match="is none of Python's") as caught:
                write_rows(store.read_sql(query), io.BytesIO(), "csv")
            assert len(str(caught.value).splitlines()) == 1

    def test_rows_come_while_the_query_runs(self, store: actlake.Store) -> None:
        with store.read_sql("from range(1000000000)") as rows:
            assert next(iter(rows))[0][:2].to_pylist() == [0, 1]

    def test_values_are_bound(self, store: actlake.Store) -> None:
        query = "select count(*) from tokens where generation_id = ? and list_contains(?, position)"
        assert store.read_sql(query, [3, [1, 2, np.int64(99)]]).fetchall() == [(2,)]
        assert store.read_sql("select $name as x", {"name": "'; drop"}).fetchall() == [("'; drop",)]
        with pytest.raises(InvalidOption, match="cast in SQL"):
            store.read_sql("select ?", [object()])

    @pytest.mark.parametrize("query", ["describe tokens", "show tables", "explain from tokens", "summarize runs"])
    def test_statements_that_describe_are_answered(self, store: actlake.Store, query: str) -> None:
        assert store.read_sql(query).columns

    def test_rows_are_read_once(self, store: actlake.Store) -> None:
        rows = store.read_sql("select 1")
        rows.fetchall()
        with pytest.raises(QueryError, match="read already"):
            rows.fetchall()

    def test_a_huge_integer_is_an_integer(self, store: actlake.Store) -> None:
        assert store.read_sql("select sum(i), null::hugeint from range(3) t(i)").fetchall() == [(3, None)]

    def test_a_refreshed_store_answers_over_the_new_snapshot(self, store: actlake.Store, folder: Path) -> None:
        store.keep_spare()
        location = Location.of(folder)
        files = write_shard(location, [a_generation(50)], "float32")
        Log(location).commit(lambda _: Commit("capture", "more", files))
        assert store.read_sql("select count(*) from generations").fetchall() == [(12,)]
        assert store.refresh().read_sql("select count(*) from generations").fetchall() == [(13,)]

    def test_many_threads_ask_at_once(self, store: actlake.Store) -> None:
        store.keep_spare()
        with ThreadPoolExecutor(6) as pool:
            answers = pool.map(lambda i: store.read_sql("select ? + count(*) from tokens", [i]).fetchall(), range(12))
            assert list(answers) == [[(288 + i,)] for i in range(12)]

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("from tokes", 'Table with name tokes does not exist! Did you mean "tokens"?'),
            ("from qqq", "There are activation_vectors, activations, all_neuron_partials"),
            ("from nowhere.tokens", 'Did you mean "tokens"?'),
            ("select tokn from tokens", 'Candidate bindings: "token"'),
            ("select t.tokn from tokens t", 'does not have a column named "tokn". Did you mean "token"?'),
            ("select avgg(rank) from tokens", 'Did you mean "avg"?'),
            ("select token + 1 from tokens", "You might need to add explicit type casts."),
            ("select token::int from tokens", "Could not convert string 't' to INT32"),
            ("selec 1", 'syntax error at or near "selec"'),
            ("select 'abc", "unterminated"),
            ("select 1; select 2", "give one SQL statement at a time; these are 2"),
            ("", "give one SQL statement at a time; these are 0"),
            ("copy tokens to 'x'", "only statements that read are allowed here"),
            ("select error('one\ntwo')", "one two"),
            ("select " + "(" * 5000 + "1" + ")" * 5000, ""),
        ],
    )
    def test_an_error_is_one_line_with_the_nearest_name(self, store: actlake.Store, query: str, said: str) -> None:
        with pytest.raises((QueryError, QueryAborted)) as caught:
            store.read_sql(query).fetchall()
        (line,) = str(caught.value).splitlines()
        assert said in line
        assert len(line) < 500
        assert "actlake://" not in line

    def test_what_a_query_makes_of_errors_types_and_names_is_bounded(self, store: actlake.Store) -> None:
        with pytest.raises(QueryError) as caught:
            store.read_sql("select error(repeat('x', 50000000))").fetchall()
        assert str(caught.value).endswith("xxx…")
        assert len(str(caught.value)) < 2500
        (of_type,) = store.read_sql("from query('select null::enum(''' || repeat('x', 5000000) || ''') as e')").types
        assert len(of_type) < 2500
        with pytest.raises(QueryError, match="ask for fewer columns"):
            store.read_sql("""from query('select 1 as "' || repeat('x', 5000000) || '"')""")
        long = f"select '{'y' * 5000}'"
        assert store.read_sql(long).fetchall() == [("y" * 5000,)]
        assert len(Query(store, long).payload()["columns"][0]) < 1500

    def test_a_missing_or_damaged_file_is_named(self, store: actlake.Store, folder: Path) -> None:
        first, second = sorted(path for path in (folder / "tokens").iterdir() if path.name[0] == "0")[:2]
        second.unlink()
        with pytest.raises(MissingFile, match=second.stem):
            store.read_sql("select sum(token_id) from tokens").fetchall()
        second.symlink_to(folder.parent / "secret.parquet")
        with pytest.raises(CorruptFile, match="leads out of the store"):
            store.read_sql("select sum(token_id) from tokens").fetchall()
        second.unlink()
        second.write_bytes(first.read_bytes()[:-100])
        with pytest.raises(ActlakeError) as caught:
            store.read_sql("select sum(token_id) from tokens").fetchall()
        assert "Traceback" not in str(caught.value)

    @pytest.mark.parametrize(
        "error", [QueryStopped("rows", 10), QueryStopped("seconds", 1.5), QueryCancelled(), QueryAborted(-9)]
    )
    def test_errors_survive_pickling(self, error: ActlakeError) -> None:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))

    def test_the_process_imports_little_and_inherits_nothing(
        self, store: actlake.Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACTLAKE_SECRET", SECRET)
        report = (
            "sandbox_child.answer = lambda *_: (_ for _ in ()).throw(sandbox_child.QueryStopped("
            "'seconds', [sorted(sys.modules), dict(sandbox_child.os.environ)]))"
        )
        *start, last = sandbox.START.strip().splitlines()
        monkeypatch.setattr(sandbox, "START", "\n".join([*start, report, last]))
        with pytest.raises(QueryStopped) as caught:
            store.read_sql("select 1")
        modules, environment = caught.value.args[1]
        assert not {"torch", "transformers", "pandas", "sklearn", "panel", "actlake.queries.database"} & set(modules)
        assert set(environment) <= {"JE_ARROW_MALLOC_CONF", "ARROW_DEFAULT_MEMORY_POOL", "LC_CTYPE", "LD_LIBRARY_PATH"}


class TestTheCommand:
    """`actlake sql`."""

    def test_limits_are_options(self, folder: Path) -> None:
        assert_stopped(folder, "from range(100)", "--max-rows", "10", "--format", "json", said="limit of 10 rows")
        endless = "select count(*) from range(100000000000) a, range(1000) b"
        assert_stopped(folder, endless, "--timeout", "0.5", said="limit of 0.5 seconds")
        assert_stopped(folder, "select len(range(400000000))", "--memory", "1GiB", said="limit of 1 GiB of memory")
        result = CliRunner().invoke(cli, ["sql", str(folder), "select 1", "--memory", "lots"])
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)

    def test_a_table_ends_the_query_after_its_hundred_rows(self, folder: Path) -> None:
        started = time.monotonic()
        result = CliRunner().invoke(cli, ["sql", str(folder), "from range(100000000000)"])
        assert result.exit_code == 0
        assert "the first 100 rows" in result.stdout
        assert time.monotonic() - started < 30

    @pytest.mark.parametrize("how", ["csv", "json", "parquet", "table"])
    def test_a_query_that_fails_midway_leaves_the_file_as_it_was(self, folder: Path, tmp_path: Path, how: str) -> None:
        output = tmp_path / "out"
        query = "select error('no') from range(1)" if how == "table" else "from range(100000)"
        for before in (None, b"mine"):
            if before:
                output.write_bytes(before)
            arguments = ["sql", str(folder), query, "--max-rows", "50000", "--format", how, "-o", str(output)]
            assert CliRunner().invoke(cli, arguments).exit_code == 1
            assert (output.read_bytes() if output.exists() else None) == before
            assert not list(tmp_path.glob(".out*"))

    def test_a_link_and_a_device_stay_what_they_are(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "file")
        for output in (tmp_path / "link", Path(os.devnull)):
            arguments = ["sql", str(folder), "select 1 as a", "--format", "csv", "-o", str(output)]
            assert CliRunner().invoke(cli, arguments).exit_code == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == "a\n1\n"
        assert not Path(os.devnull).is_file()

    @LINUX
    def test_a_long_answer_takes_little_memory(self, folder: Path, tmp_path: Path) -> None:
        script = f"""
from actlake.cli import cli
cli(["sql", {str(folder)!r}, "select i, repeat('x', 200) as t from range(2000000) t(i)", "--max-rows", "2000000",
     "--format", "parquet", "-o", {str(tmp_path / "x.parquet")!r}], standalone_mode=False)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert pq.read_metadata(tmp_path / "x.parquet").num_rows == 2_000_000
        assert int(done.stdout) * 1024 < 350 * 2**20


class TestStoreFiles:
    """The read-only file system."""

    def test_many_threads_read_the_right_bytes(self, store: actlake.Store) -> None:
        files = StoreFiles(store.location, list(store.snapshot.files))
        path = next(path for path in store.snapshot.files if path.startswith("activation_vectors"))
        whole = store.location.read(path)
        file = files.open(f"actlake://{path}")

        def reads_right(seed: int) -> bool:
            random = np.random.default_rng(seed)
            for start in random.integers(0, len(whole), 200).tolist():
                file.seek(start)
                if file.read(500) + file.read(20) != whole[start : start + 520]:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(reads_right, range(16)))
        file.close()

    @pytest.mark.parametrize("threads", [1, 2, 8])
    def test_duckdbs_threads_get_the_rows_of_a_native_read(self, store: actlake.Store, threads: int) -> None:
        query = "select sum(hash(t)), count(*) from {} t"
        files = StoreFiles(store.location, list(store.snapshot.files), empty_files())
        for table in ("activation_vectors", "embeddings", "tokens"):
            expected = store.sql(query.format(table)).fetchall()
            for _ in range(8):
                connection = through(files, store).connect()
                connection.execute(f"set threads = {threads}")
                assert connection.sql(query.format(table)).fetchall() == expected
                connection.close()

    def test_only_the_snapshots_files_are_there(self, store: actlake.Store, folder: Path) -> None:
        known = next(iter(store.snapshot.files))
        files = StoreFiles(store.location, [known])
        assert files.exists(known)
        assert files.info(known)["size"] == (folder / known).stat().st_size
        others = [*store.snapshot.files][1:2]
        for other in (
            *others,
            "tokens/uncommitted.parquet",
            "README.md",
            "",
            "/etc/passwd",
            f"../{folder.name}/{known}",
            "*",
        ):
            assert not files.exists(other)
            assert files.glob(other) == []
            with pytest.raises(FileNotFoundError):
                files.open(other)

    def test_nothing_is_written_through_it(self, store: actlake.Store, folder: Path) -> None:
        before = content(folder)
        path = next(iter(store.snapshot.files))
        files = StoreFiles(store.location, [path])
        attempts: list[Callable[[], Any]] = [
            *(lambda mode=mode: files.open(path, mode) for mode in ("wb", "ab", "r+b", "xb", "w")),
            lambda: files.rm(path), lambda: files.rm_file(path), lambda: files.mkdir("x"), lambda: files.makedirs("x"),
            lambda: files.rmdir("tokens"), lambda: files.mv(path, "x"), lambda: files.cp_file(path, "x"),
            lambda: files.copy(path, "x"), lambda: files.pipe_file("x", b""), lambda: files.pipe("x", b""),
            lambda: files.put_file(path, "x"), lambda: files.put(path, "x"), lambda: files.touch(path),
            lambda: files.write_text("x", "x"), lambda: files.write_bytes("x", b""), lambda: files.rename(path, "x"),
        ]  # fmt: skip
        for attempt in attempts:
            with pytest.raises(PermissionError):
                attempt()
        assert content(folder) == before


def assert_stopped(folder: Path, query: str, *options: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["sql", str(folder), query, *options])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert said in line


def children() -> list[str]:
    """Processes of queries that this one started and that run still."""
    done = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [line for line in done.stdout.splitlines() if "sandbox_child" in line]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)
