"""What every place for a store must do, held against a local folder and S3; then what is one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from actlake.errors import ActlakeError, MissingFile, StoreUnreachable, UnsupportedLocation
from actlake.store import Location
from actlake.store import objects as object_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import S3Server

ODD_NAMES = ["ü x.json", "a[1]*?.txt", "100%.txt", "%20.txt", "we+ird&=#;.txt", "'quoted\".txt", "😀", "..dots"]

RACE = """
import os, sys
import boto3
from actlake.store import Location

uri, name = sys.argv[1:]
for racer in range(4):
    if os.fork() == 0:
        won = [Location.of(uri).put_if_absent(f"{name}/{turn}", f"{racer}".encode()) for turn in range(3)]
        sys.stdout.write(f"{racer} {''.join(str(int(w)) for w in won)}\\n")
        sys.stdout.flush()
        os._exit(0)
sys.exit(any(os.wait()[1] for _ in range(4)))
"""
"""Four processes that want the same three names; each prints its number and which names it won."""


def _then(error: type[BaseException]) -> Iterator[bytes]:
    yield bytes(3 << 20)
    raise error


class LocationContract:
    """Each place for a store subclasses this and gives `location`."""

    def test_what_is_written_is_read_back(self, location: Location) -> None:
        location.put_if_absent("tokens/a.parquet", b"abc")
        location.put_if_absent("tokens/empty", pa.py_buffer(b""))
        assert location.read("tokens/a.parquet") == b"abc"
        assert location.read("tokens/empty") == b""
        assert (location.size("tokens/a.parquet"), location.size("tokens/empty")) == (3, 0)

    def test_a_draft_appears_whole_under_a_name_that_is_free(self, location: Location) -> None:
        with location.draft("t") as draft:
            draft.add(b"ab", b"c")
            draft.add(pa.py_buffer(b"d"))
            assert [name for name in location.names("t") if not name.startswith(".")] == []
            assert draft.appear("t/a")
        with location.draft("t") as draft:
            draft.add(b"other")
            assert not draft.appear("t/a")
        assert location.names("t") == ["a"]
        assert location.read("t/a") == b"abcd"

    def test_a_draft_that_does_not_appear_leaves_nothing(self, location: Location) -> None:
        def write(pieces: Iterator[bytes]) -> None:
            with location.draft("t") as draft:
                for piece in pieces:
                    draft.add(piece)

        write(iter([b"a"]))
        for error in (KeyError, KeyboardInterrupt):
            with pytest.raises(error):
                write(_then(error))
        assert location.names("t") == []

    def test_a_put_says_whether_it_made_the_file(self, location: Location) -> None:
        assert location.put_if_absent("_log/0.json", b"first")
        assert not location.put_if_absent("_log/0.json", b"second")
        assert not location.put_if_absent("_log/0.json", b"first")
        assert location.read("_log/0.json") == b"first"

    def test_one_of_many_threads_wins_each_name(self, location: Location) -> None:
        def race(number: int) -> list[bool]:
            return [location.put_if_absent(f"race/{name}", f"{number}".encode()) for name in range(8)]

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(race, range(8)))
        for name in range(8):
            (winner,) = [number for number in range(8) if won[number][name]]
            assert location.read(f"race/{name}") == f"{winner}".encode()

    def test_one_of_many_processes_wins_each_name(self, location: Location) -> None:
        done = subprocess.run(
            [sys.executable, "-c", RACE, location.uri, "race"], capture_output=True, text=True, check=True
        )
        racers = dict(line.split() for line in done.stdout.splitlines())
        assert len(racers) == 4
        for turn in range(3):
            (winner,) = [racer for racer, won in racers.items() if won[turn] == "1"]
            assert location.read(f"race/{turn}") == winner.encode()

    def test_a_missing_file_is_an_error_with_its_whole_name(self, location: Location) -> None:
        with pytest.raises(MissingFile, match=re.escape(f"'{location.full('tokens/none')}' is missing")):
            location.read("tokens/none")
        with pytest.raises(MissingFile):
            location.open("tokens/none")
        assert location.size("tokens/none") is None
        assert location.size("tokens") is None

    def test_a_folder_lists_its_files_and_no_others(self, location: Location) -> None:
        for path in ("t/b", "t/a", "t/deep/c", "tt/d", "e"):
            location.put_if_absent(path, path.encode())
        assert location.names("t") == ["a", "b"]
        assert location.names("t/deep") == ["c"]
        assert location.names("none") == []

    def test_entries_say_bytes_and_when_they_were_written(self, location: Location) -> None:
        before = datetime.now(UTC)
        location.put_if_absent("t/a", b"12345")
        (entry,) = location.entries("t")
        assert (entry.name, entry.size) == ("a", 5)
        assert abs(entry.modified - before) < timedelta(seconds=60)

    def test_a_deleted_file_is_gone_and_may_be_deleted_again(self, location: Location) -> None:
        location.put_if_absent("t/a", b"a")
        location.put_if_absent("t/b", b"b")
        for _ in range(2):
            location.delete("t/a")
        assert location.names("t") == ["b"]
        assert location.put_if_absent("t/a", b"again")

    def test_threads_read_their_own_parts_of_one_file(self, location: Location) -> None:
        data = os.urandom(300_000)
        location.put_if_absent("big", data)
        with location.open("big") as file, ThreadPoolExecutor(8) as threads:
            starts = range(0, len(data) - 1000, 4099)
            parts = list(threads.map(lambda start: file.read_at(1000, start), starts))
            assert file.size() == len(data)
        assert parts == [data[start : start + 1000] for start in starts]

    def test_a_file_is_never_seen_half_written(self, location: Location) -> None:
        data, seen, done = bytes(4 << 20), set(), threading.Event()

        def look() -> None:
            while not done.is_set():
                seen.add(location.size("t/a"))
                seen.update(entry.size for entry in location.entries("t") if not entry.name.startswith("."))

        with ThreadPoolExecutor(2) as threads:
            looks = [threads.submit(look) for _ in range(2)]
            for _ in range(4):
                location.put_if_absent("t/a", data)
                location.delete("t/a")
            done.set()
            for each in looks:
                each.result()
        assert seen <= {None, len(data)}

    def test_odd_names_are_names(self, location: Location) -> None:
        for name in ODD_NAMES:
            location.put_if_absent(f"odd/{name}", name.encode())
        assert location.names("odd") == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            assert location.read(f"odd/{name}") == name.encode()
            location.delete(f"odd/{name}")
        assert location.names("odd") == []

    def test_its_uri_is_enough_for_another_process(self, location: Location) -> None:
        location.put_if_absent("a", b"abc")
        assert Location.of(location.uri).read("a") == b"abc"


class TestLocalFolder(LocationContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        return Location.of(tmp_path / "deep" / "folder")


class TestLocalFolderOfAnOddName(LocationContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        return Location.of(tmp_path / "ü [x] * ? a:b 100%20" / "~")


class TestS3Prefix(LocationContract):
    @pytest.fixture
    def location(self, bucket: str) -> Location:
        return Location.of(f"{bucket}/deep/prefix/")

    def test_a_put_whose_answer_was_lost_is_known_for_ours(self, location: Location, s3_server: S3Server) -> None:
        assert location.put_if_absent("a", b"a")
        s3_server.requests.clear()
        s3_server.replies_to_lose.append("PUT")
        assert location.put_if_absent("b", b"the same bytes")
        assert [r.method for r in s3_server.requests] == ["PUT", "PUT", "HEAD"]
        assert not location.put_if_absent("b", b"the same bytes")

    def test_large_data_go_in_parts_and_replace_nothing(
        self, location: Location, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(object_stores, "ONE_PUT", 1000)
        monkeypatch.setattr(object_stores, "PART", 5 << 20)  # S3 takes no smaller one, but for the last
        data = os.urandom((11 << 20) + 7)
        location.put_if_absent("big", data)
        assert [r.method for r in s3_server.requests if r.key.endswith("big")].count("PUT") == 3
        assert location.read("big") == data
        assert not location.put_if_absent("big", bytes(2000))
        s3_server.replies_to_lose.append("POST")
        assert location.put_if_absent("big again", data[:2000])
        assert location.read("big") == data

    def test_nothing_is_put_but_what_was_asked_for(self, location: Location, bucket: str) -> None:
        location.put_if_absent("t/deep/a", b"a")
        location.delete("t/deep/a")
        whole = Location.of(bucket)
        assert [whole.names(folder) for folder in ("", "deep", "deep/prefix", "deep/prefix/t")] == [[], [], [], []]
        assert whole.names("deep/prefix/_log") == [".put-if-absent"]

    def test_a_service_that_ignores_the_condition_is_not_written_to(
        self, location: Location, s3_server: S3Server
    ) -> None:
        s3_server.ignores_conditions = True
        with pytest.raises(UnsupportedLocation, match="ignores `If-None-Match`"):
            location.put_if_absent("_log/0.json", b"a")
        assert location.size("_log/0.json") is None

    def test_a_folder_of_more_files_than_one_answer_holds_is_listed_whole(
        self, location: Location, s3_server: S3Server
    ) -> None:
        names = [f"{number:04}" for number in range(2001)]
        for name in names:
            s3_server.put(f"{location.root}/t/{name}", b"")
        assert location.names("t") == names

    def test_the_uri_may_say_where_the_service_is(
        self, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_REGION")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        host = s3_server.url.removeprefix("http://")
        location = Location.of(f"{bucket}/a%20b/ü?endpoint_override={host}&scheme=http&region=us-east-1")
        location.put_if_absent("c", b"c")
        assert location.read("c") == b"c"
        assert s3_server.requests[-1].key.encode("latin-1").decode() == "a b/ü/c"

    def test_a_profile_may_say_where_the_service_is_and_who_asks(
        self, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(f"[profile lake]\nregion = us-east-1\nendpoint_url = {s3_server.url}\n")
        (tmp_path / "credentials").write_text("[lake]\naws_access_key_id = a\naws_secret_access_key = b\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "lake")
        location = Location.of(bucket)
        location.put_if_absent("c", b"c")
        assert location.read("c") == b"c"
        monkeypatch.setenv("AWS_PROFILE", "sea")
        with pytest.raises(StoreUnreachable, match=r"profile .sea. could not be found"):
            Location.of(bucket)


class TestWhatCannotBeReached:
    """Each is one clear line, soon, and holds nothing secret."""

    def problem(self, uri: str) -> tuple[str, str]:
        """What a read says, and what a write says."""
        said = []
        for ask in (lambda: Location.of(uri).names("_log"), lambda: Location.of(uri).put_if_absent("a", b"a")):
            started = time.monotonic()
            with pytest.raises(StoreUnreachable) as caught:
                ask()
            assert time.monotonic() - started < 30
            said.append(str(caught.value))
            assert "\n" not in said[-1]
        return said[0], said[1]

    def test_without_credentials(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        read, written = self.problem(bucket)
        assert "refuses access (AccessDenied); set AWS_ACCESS_KEY_ID" in read
        assert "there are no credentials; set AWS_ACCESS_KEY_ID" in written

    def test_without_the_bucket(self, s3_server: S3Server) -> None:
        for said in self.problem("s3://no-such-bucket/prefix"):
            assert f"there is no bucket 'no-such-bucket' at {s3_server.url}" in said

    def test_without_a_service(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hush@127.0.0.1:1")
        for said in self.problem("s3://bucket"):
            assert "http://127.0.0.1:1 does not answer" in said

    def test_a_read_that_the_service_fails_is_not_called_damage(self, bucket: str, s3_server: S3Server) -> None:
        location = Location.of(bucket)
        location.put_if_absent("a", bytes(100))
        s3_server.replies_to_lose += ["GET"] * object_stores.ATTEMPTS
        with pytest.raises(StoreUnreachable):
            location.read("a")


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://AKIAKEY:hush@bucket/a", r"'s3://bucket/a' .* must hold no credentials"),
        ("s3://AKIAKEY@bucket/a", "must hold no credentials"),
        ("s3://bucket/a?secret_key=hush", r"'s3://bucket/a' .* not secret_key$"),
        ("s3:///a", "names no bucket"),
        ("gs://me:hush@bucket", "must hold no credentials"),
        ("https://me:hush@host/a?sig=hush", r"'https://…' as a store: give a folder"),
        ("file://host/a", "three slashes"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_and_its_secrets_are_not_shown(uri: str, problem: str) -> None:
    with pytest.raises(UnsupportedLocation, match=problem) as caught:
        Location.of(uri)
    assert "hush" not in repr(caught.value)
    assert "AKIAKEY" not in repr(caught.value)


def test_google_cloud_storage_is_not_written_to() -> None:
    location = Location.of("gs://anonymous@bucket/prefix")
    assert location.full("a") == "gs://bucket/prefix/a"
    with pytest.raises(UnsupportedLocation, match="reads Google Cloud Storage but does not write it"):
        location.put_if_absent("a", b"")


def test_writing_without_boto3_says_what_to_install(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Location.of(bucket).put_if_absent("a", b"a")
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert Location.of(bucket).read("a") == b"a"
    with pytest.raises(UnsupportedLocation, match=r"pip install 'actlake\[s3\]'"):
        Location.of(bucket).put_if_absent("b", b"b")


@pytest.mark.parametrize("name", ["ü [x] * ?", "100%25", "a b"])
def test_a_file_uri_is_the_folder_that_it_names(tmp_path: Path, name: str) -> None:
    Location.of(tmp_path / name).put_if_absent("a", b"a")
    assert Location.of((tmp_path / name).as_uri()).read("a") == b"a"


def test_a_relative_path_and_the_home_folder_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Location.of("corpus").full("a") == f"{tmp_path}/corpus/a"
    assert Location.of("~/corpus").full("a") == f"{tmp_path}/home/corpus/a"
    assert Location.of("corpus").is_local
    assert Location.of("corpus").free_bytes()


def test_a_file_in_a_stores_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("a file")
    with pytest.raises(UnsupportedLocation, match="a file of that name is in the way"):
        Location.of(tmp_path / "corpus").put_if_absent("_log/0.json", b"")


def test_a_location_shows_where_it_is() -> None:
    assert repr(Location.of("s3://bucket/a?region=x")) == "<actlake.Location 's3://bucket/a?region=x'>"


def test_no_other_errors_are_hidden(tmp_path: Path) -> None:
    """A folder that may not be read, say, stays what it is."""
    location: Any = Location.of(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as caught:
        location.open("folder")
    assert not isinstance(caught.value, ActlakeError)
