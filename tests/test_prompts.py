"""Prompts are read as they stand, and a bad one is named by its file and line."""

import csv
import io
import pickle
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake.capture import prompts_from, read_prompts
from actlake.errors import InvalidOption, InvalidPrompt


def test_a_line_of_a_text_file_is_a_prompt_with_its_spaces(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeff 1, 2, 3, \r\nzwei\u2028drei\n".encode())
    assert [prompt.text for prompt in read_prompts(path)] == [" 1, 2, 3, ", "zwei\u2028drei"]


def test_a_record_has_a_prompt_or_a_text_and_the_rest_is_metadata(jsonl: Any) -> None:
    prompts = read_prompts(jsonl({"prompt": "a", "kind": "x", "n": [1]}, {"text": "b"}, {"prompt": "c", "text": "d"}))
    assert [(p.text, p.generate, dict(p.metadata)) for p in prompts] == [
        ("a", True, {"kind": "x", "n": [1]}),
        ("b", False, {}),
        ("c", True, {"text": "d"}),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a"', "not JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ("{}", 'no "prompt", no "text" and no "messages", only nothing'),
        ('{"promt": "a"}', "only promt"),
        ('{"prompt": 3}', '"prompt" is not a text'),
        ('{"prompt": ""}', "empty"),
        ('{"prompt": "a", "x": NaN}', "NaN"),
        ('{"prompt": "a", "prompt": "b"}', '"prompt" is there twice'),
        ('{"prompt": "\\ud800"}', "half a character"),
        ('{"prompt": "a\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "good"}\n\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(InvalidPrompt, match=r"p\.jsonl, line 3: ") as raised:
        read_prompts(path)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_empty_line_of_a_text_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\n\nb\n")
    with pytest.raises(InvalidPrompt, match="line 2: the prompt is empty"):
        read_prompts(path)


def test_an_empty_file_a_missing_file_and_another_ending_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InvalidPrompt, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(InvalidPrompt, match="No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InvalidOption, match=r"\.txt, \.jsonl, \.csv, \.parquet files"):
        read_prompts(tmp_path / "p.docx")


def test_a_bare_string_is_not_a_list_of_prompts() -> None:
    with pytest.raises(InvalidOption, match="list of prompts"):
        prompts_from("hello")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"prompt": "a"}, r"give a list of prompts: \[record\] for one"),
        (pd.DataFrame({"prompt": ["a"]}), r'df\.to_dict\("records"\)'),
        (pl.DataFrame({"prompt": ["a"]}), r"df\.to_dicts\(\)"),
        (pa.table({"prompt": ["a"]}), r"table\.to_pylist\(\)"),
    ],
)
def test_a_record_or_a_table_is_not_a_list_of_prompts(given: Any, advice: str) -> None:
    with pytest.raises(InvalidOption, match=advice) as raised:
        prompts_from(given)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f'{{"prompt": "a", "x": {DEEP}}}', "it has more than 100 lists and objects within one another"),
        (f'{{"prompt": "a", "x": {DEEP[99_900:-99_900]}}}', '"x" has more than 100 lists and objects'),
        ('{"prompt": "a", "x": [1e999]}', '"x" is inf, which JSON does not have; give null (None) in its place'),
        ('{"prompt": "a", "x": {"y": "\\ud800"}}', '"x" holds half a character (at 0)'),
        ('{"prompt": "a", "\\ud800": 1}', "the name of a field holds half a character (at 0)"),
    ],
)
def test_a_field_that_json_does_not_have_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(line)
    with pytest.raises(InvalidPrompt, match=r"p\.jsonl, line 1: ") as raised:
        read_prompts(path)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"x": float("nan")}, '"x" is nan'),
        ({"x": {1, 2}}, '"x" is of type set, which JSON does not have'),
        ({"x": 10**5000}, '"x" is a number of more digits'),
        ({"x": {("a", "b"): 1}}, '"x" has a name of type tuple'),
        ({"x": {1: "a", "1": "b"}}, '"x" has "1" twice'),
        ({1: "a", "1": "b"}, '"1" is there twice'),
    ],
)
def test_metadata_from_python_that_json_does_not_have_is_named(metadata: dict[Any, Any], problem: str) -> None:
    with pytest.raises(InvalidPrompt, match="prompt 2: its metadata cannot be written as JSON: ") as raised:
        prompts_from(["a", {"prompt": "b", **metadata}])
    assert problem in str(raised.value)


def test_metadata_is_kept_as_json_has_it() -> None:
    (prompt,) = prompts_from([{"prompt": "a", "x": {1: (2, 3), "b": True, None: None, 1.5: ""}, 7: "seven"}])
    assert prompt.metadata == {"x": {"1": [2, 3], "b": True, "null": None, "1.5": ""}, "7": "seven"}


@pytest.mark.parametrize("state", ["{", "{}", "[]", '{"_data_files": [{}]}', '{"_data_files": 3}', DEEP])
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_damaged_folder_of_a_data_set_is_named(tmp_path: Path, name: str, state: str) -> None:
    (tmp_path / name).write_text(state)
    with pytest.raises(InvalidPrompt, match=f"{name}: it is damaged"):
        read_prompts(tmp_path)


def test_a_cell_of_a_csv_may_be_as_long_as_the_file(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "p.csv").write_text(f"prompt,n\n{'a' * 200_000},1\nb,2\n")
    assert [len(prompt.text) for prompt in read_prompts(tmp_path / "p.csv")] == [200_000, 1]
    assert csv.field_size_limit() == limit


def _summary(path: Path) -> list[tuple[str, bool, dict[str, Any]]]:
    return [(prompt.text, prompt.generate, dict(prompt.metadata)) for prompt in read_prompts(path)]


def test_a_csv_has_a_row_for_a_prompt_with_commas_quotes_and_line_breaks_in_it(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes('\ufeffprompt,kind,text\r\n" 1, ""2"",\nthree",x,\r\n,,captured\r\n'.encode())
    assert _summary(path) == [(' 1, "2",\nthree', True, {"kind": "x"}), ("captured", False, {"kind": ""})]


ROWS = [
    {"prompt": " 1, 2,", "n": 3, "at": datetime(2026, 1, 2, 3, 4), "price": Decimal("1.50"), "tags": [{"day": date(2026, 1, 2)}]},
    {"prompt": None, "text": "as it stands", "n": None, "at": None, "price": None, "tags": None},
]  # fmt: skip
FROM_ROWS = [
    (" 1, 2,", True, {"n": 3, "at": "2026-01-02T03:04:00", "price": "1.50", "tags": [{"day": "2026-01-02"}]}),
    ("as it stands", False, {"n": None, "at": None, "price": None, "tags": None}),
]


def test_a_parquet_file_has_a_row_for_a_prompt_and_its_other_columns_become_metadata(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(
        ROWS, schema=pa.Table.from_pylist(ROWS[:1]).schema.append(pa.field("text", pa.string()))
    )
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=1)
    assert _summary(tmp_path / "p.parquet") == FROM_ROWS


def test_a_folder_that_hugging_faces_datasets_saved_is_read_without_them(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list([{"prompt": f"p{i}", "text": None, "n": i} for i in range(5)])
    dataset.select([4, 0, 2]).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    assert _summary(tmp_path / "saved") == [(f"p{i}", True, {"n": i}) for i in (4, 0, 2)]
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InvalidOption, match=r"name one of its splits: .*splits/train, .*splits/test"):
        read_prompts(tmp_path / "splits")
    assert len(read_prompts(tmp_path / "splits/test")) == 5
    with pytest.raises(InvalidOption, match=r"not one that Dataset\.save_to_disk wrote"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(b"one\n two\n", ["one", " two"]), (b'\n{"prompt": "one"}\n{"text": "two"}\n', ["one", "two"])],
)
def test_standard_input_has_a_prompt_a_line_or_json_lines(
    given: bytes, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert [prompt.text for prompt in read_prompts(Path("-"))] == expected


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.csv", b"prompt,kind\na,b\nc\n", r"p\.csv, line 3: it has not as many fields as the first line, 2"),
        ("p.csv", b"prompt,kind\na,b,c\n", r"p\.csv, line 2: it has not as many fields as the first line, 2"),
        ("p.csv", b"promt\na\n", r"p\.csv, line 2: it has no \"prompt\", no \"text\" and no \"messages\", only promt"),
        ("p.csv", b'prompt\n"a\n', r"p\.csv: cannot be read: unexpected end of data"),
        ("p.csv", b"prompt\na\n\xff\n", r"p\.csv, line 3: it is not UTF-8"),
        ("p.csv", b"prompt,kind,kind\na,b,c\n", r"p\.csv: it has two columns \"kind\"; name one of them otherwise"),
        ("p.csv", b"prompt\n", r"p\.csv: holds no prompt"),
        ("p.parquet", b"PAR1 no", r"p\.parquet: cannot be read: "),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidPrompt, match=problem):
        read_prompts(tmp_path / name)


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", ""], "blob": [b"", b"\xff"]}), tmp_path / "p.parquet")
    with pytest.raises(
        InvalidPrompt, match=r'p\.parquet, row 1: its metadata cannot be written as JSON: "blob" is of type bytes'
    ):
        read_prompts(tmp_path / "p.parquet")
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), tmp_path / "p.parquet")
    with pytest.raises(InvalidPrompt, match=r"p\.parquet: it has two columns \"prompt\""):
        read_prompts(tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["a", ""]}), tmp_path / "p.parquet")
    with pytest.raises(InvalidPrompt, match=r"p\.parquet, row 2: the prompt is empty"):
        read_prompts(tmp_path / "p.parquet")
