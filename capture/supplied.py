"""The tokens of a completion that is supplied: those that say exactly its text.

A tokenizer may cut a text otherwise than its beginning and its rest, and many put a space before what they take for a text's
beginning. So several ways of cutting are tried, and one counts only if its tokens' bytes are the completion's.
"""

from collections.abc import Iterator, Sequence

from ..errors import InvalidPrompt
from .models import Model

_BEFORE = ("\n", ".", "0", "\x02")
"""What is put before a completion, so that it does not begin the text; one of them is no part of a token with its beginning."""


def completion_ids(
    model: Model, where: str, prompt: str, prompt_ids: Sequence[int], completion: str, *, special: bool
) -> list[int]:
    """The completion's tokens: as it is cut after its prompt, or where that cuts the prompt otherwise, by itself.

    `special` is whether the tokenizer adds its special tokens to the prompt. Raises InvalidPrompt where no way of cutting gives
    tokens that say what the completion says.
    """
    wanted = completion.encode()
    for ids in _cut(model, prompt, prompt_ids, completion, special=special):
        if ids and b"".join(map(model.text.bytes_of, ids)) == wanted:
            return ids
    alone = _ids(model, completion)
    if not alone:
        raise InvalidPrompt(where, "the tokenizer makes no token of its completion")
    made = b"".join(map(model.text.bytes_of, alone)).decode(errors="replace")
    problem = f"the tokenizer of {model.name} cannot say its completion as it stands, it makes {_short(made)} of"
    raise InvalidPrompt(where, f"{problem} {_short(completion)}; write it as the tokenizer does, or leave it out")


def _cut(
    model: Model, prompt: str, prompt_ids: Sequence[int], completion: str, *, special: bool
) -> Iterator[list[int]]:
    whole = _ids(model, prompt + completion, special=special)
    if whole[: len(prompt_ids)] == list(prompt_ids):
        yield whole[len(prompt_ids) :]
    yield _ids(model, completion)
    n_bytes = len(completion.encode())
    for before in _BEFORE:
        ids, missing = _ids(model, before + completion), n_bytes
        first = len(ids)
        while missing > 0 and first:
            first -= 1
            missing -= len(model.text.bytes_of(ids[first]))
        yield ids[first:]


def _ids(model: Model, text: str, *, special: bool = False) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
