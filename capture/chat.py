"""Chats: messages put through the tokenizer's template, and whose message each part of the outcome is.

A template is a program of the checkpoint's and may do anything with a message. So it is run once more with a mark in the
place of each content: the contents stand where what is between the marks is between them, or nothing is said.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from ..errors import InvalidOption, InvalidPrompt
from .models import Model
from .prompts import Prompt

ASSISTANT = "assistant"

_MARK = re.compile("\ue000(\\d+)\ue001")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Chat:
    """What the template made of messages; `spans` has for each content its first character, that after its last, and its role."""

    text: str
    spans: tuple[tuple[int, int, str], ...]

    def roles(
        self, char_start: Int32[np.ndarray, "n"], char_end: Int32[np.ndarray, "n"], n_prompt_tokens: int
    ) -> list[str | None]:
        """The role of each token: of the message whose content it has a character of (the first such), the assistant's of
        all that follow the prompt; None of the template's own."""
        roles: list[str | None] = [None] * len(char_start)
        for first, end, role in reversed(self.spans):
            for index in np.flatnonzero((char_start < end) & (char_end > first)):
                roles[index] = role
        return [*roles[:n_prompt_tokens], *[ASSISTANT] * (len(roles) - n_prompt_tokens)]


def chat_of(model: Model, prompt: Prompt) -> Chat:
    """The prompt's messages, or its text as a user's, in the model's template, with the opening of the assistant's answer.

    Raises InvalidPrompt; InvalidOption where the tokenizer has no template and the prompt no messages of its own.
    """
    if not model.tokenizer.chat_template:
        if not prompt.messages:
            raise InvalidOption("chat", True, f"the tokenizer of {model.name} has no chat template")
        raise InvalidPrompt(
            prompt.where, f"it has messages, and the tokenizer of {model.name} has no chat template to put them into"
        )
    messages = prompt.asked or [{"role": "user", "content": prompt.text}]
    marked = [
        {**message, "content": f"\ue000{number}\ue001"} if message["content"] else message
        for number, message in enumerate(messages)
    ]
    text = _rendered(model, messages, prompt.where)
    try:
        skeleton = _rendered(model, marked, prompt.where)
    except InvalidPrompt:  # it looks into contents, and dislikes a mark
        return Chat(text, ())
    return Chat(text, tuple(_spans(text, skeleton, messages)))


def _rendered(model: Model, messages: Sequence[Message], where: str) -> str:
    try:
        text = model.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InvalidPrompt(where, f"the chat template of {model.name} refuses its messages: {said}") from error
    return str(text)


def _spans(text: str, skeleton: str, messages: Sequence[Message]) -> Iterator[tuple[int, int, str]]:
    """Where the contents stand in the text, if the skeleton fits it; not those that the template changed."""
    before, *rest = _MARK.split(skeleton)
    numbers, literals = [int(number) for number in rest[::2]], rest[1::2]
    if any(number >= len(messages) for number in numbers):
        return
    pattern, roles = re.escape(before), []
    for place, (number, literal) in enumerate(zip(numbers, literals, strict=True), 1):
        content = messages[number]["content"]
        forms = dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip()))
        there = [re.escape(form) for form in forms if form in text]
        roles.append(messages[number]["role"] if there else None)
        atomic = "?>" if place < len(numbers) else "?:"  # no way back, or many changed contents could take for ever
        pattern += f"({atomic}({'|'.join(there) or '.*?'}){re.escape(literal)})"
    if match := re.fullmatch(pattern, text, re.DOTALL):
        for group, role in enumerate(roles, 1):
            first, end = match.span(group)
            if role is not None and end > first:
                yield first, end, role
