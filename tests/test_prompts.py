"""Prompts are read as they stand, and a bad one is named by its file and line."""

from pathlib import Path
from typing import Any

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
        ("{}", 'no "prompt" and no "text"'),
        ('{"promt": "a"}', "only promt"),
        ('{"prompt": 3}', '"prompt" is not a text'),
        ('{"prompt": ""}', "empty"),
        ('{"prompt": "a", "x": NaN}', "NaN"),
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
    with pytest.raises(InvalidOption, match=r"\.txt or \.jsonl"):
        read_prompts(tmp_path / "p.docx")


def test_a_bare_string_is_not_a_list_of_prompts() -> None:
    with pytest.raises(InvalidOption, match="list of prompts"):
        prompts_from("hello")
