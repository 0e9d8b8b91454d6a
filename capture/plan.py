"""What a capture is to do: prompts as tokens, cut into units of work, and how many bytes that may write.

The units follow from the prompts, the options and the run's procedure alone, so a capture that is run again after a crash
does the missing ones in the same batches as before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..errors import InvalidOption, InvalidPrompt, PromptTooLong, UnknownLayer
from ..store.precision import BYTES_PER_VALUE
from .models import Model
from .options import CaptureOptions
from .procedure import Procedure
from .prompts import Prompt

BYTES_PER_SCORES = 16
"""What the scores of one pair of positions take in a file, roughly."""
WINDOW = 512
"""Prompts are sorted by length within windows of this many, so that a file's generation ids lie close together."""


@dataclass(frozen=True)
class Work:
    """One prompt as the model reads it; `max_new_tokens` is 0 for a text that is captured as it stands, and when `completion_ids`
    are what counts as written.

    `n_masked` positions of it are masked, for a masked language model to fill; `targets` are the tokens to explain there,
    none for the likeliest.
    """

    prompt_index: int
    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    completion_ids: tuple[int, ...] = ()
    n_masked: int = 0
    targets: tuple[int, ...] = ()

    @property
    def max_tokens(self) -> int:
        return len(self.token_ids) + len(self.completion_ids) + self.max_new_tokens


@dataclass(frozen=True)
class Plan:
    """All the work of a run, and the layers it records."""

    works: Sequence[Work]
    layers: tuple[int, ...]

    def units(self, options: CaptureOptions, procedure: Procedure) -> Iterator[tuple[Work, ...]]:
        """Work in batches: texts of about the same length, that have the same number of tokens to write."""
        for start in range(0, len(self.works), WINDOW):
            window = sorted(self.works[start : start + WINDOW], key=lambda w: (w.max_new_tokens, w.max_tokens))
            for _, alike in groupby(window, key=lambda work: work.max_new_tokens):
                yield from _batches(list(alike), options, procedure)


def make_plan(model: Model, prompts: Sequence[Prompt], options: CaptureOptions) -> Plan:
    """Tokens, layers and batches of a run. Raises InvalidPrompt, PromptTooLong, UnknownLayer or InvalidOption."""
    if not prompts:
        raise InvalidPrompt("prompts", "there is none; give a file or a text")
    if options.ffn not in (None, model.anatomy.ffn):
        raise InvalidOption("ffn", options.ffn, f"the model was loaded with {model.anatomy.ffn}")
    layers = tuple(sorted(set(range(model.anatomy.n_layers) if options.layers is None else options.layers)))
    if unknown := [layer for layer in layers if not 0 <= layer < model.anatomy.n_layers]:
        raise UnknownLayer(unknown, range(model.anatomy.n_layers))
    wants_gradients = options.target is not None
    if wants_gradients and not model.anatomy.is_causal and model.mask_id is None:
        wanted = f"{model.name} is an encoder that predicts no token, so there are no gradients; leave them out"
        raise InvalidOption("record", ",".join(options.record), wanted)
    if wants_gradients and not model.anatomy.is_causal:
        for name, only in (("gradients", "vectors"), ("gradient_target", "logit")):
            if (asked := getattr(options, name)) != only:
                raise InvalidOption(name, asked, f"{model.name} is an encoder, where it can be {only} alone")
    if options.chat and not model.anatomy.is_causal:
        raise InvalidOption("chat", True, f"{model.name} is an encoder, which answers nothing")
    works = [_work(model, index, prompt, options) for index, prompt in enumerate(prompts)]
    return Plan(works, layers if options.records("activations") else ())


def byte_budget(model: Model, plan: Plan, options: CaptureOptions) -> dict[str, int]:
    """For each table, about how many bytes the run writes at most, if every text gets all its tokens."""
    per_value = BYTES_PER_VALUE[options.precision]
    d_model, d_ff = model.anatomy.d_model, model.anatomy.d_ff
    tokens = sum(work.max_tokens for work in plan.works)
    pairs = sum(
        sum(range(len(work.token_ids), work.max_tokens)) + work.n_masked * len(work.token_ids) for work in plan.works
    )
    characters = sum(len(work.text.encode()) for work in plan.works)
    budget = {"generations": 200 * len(plan.works) + characters, "tokens": 24 * tokens}
    if options.records("embeddings"):
        budget["embeddings"] = round(tokens * d_model * per_value)
    if options.records("gradients"):
        budget["gradients"] = round(pairs * d_model * per_value)
    if options.records("gradient_scores"):
        budget["gradient_scores"] = pairs * BYTES_PER_SCORES
    if options.records("activations"):
        budget["activation_vectors"] = round(tokens * len(plan.layers) * d_ff * per_value)
        if options.index:
            budget["neuron_vectors"] = budget["activation_vectors"]
    return budget


def _work(model: Model, index: int, prompt: Prompt, options: CaptureOptions) -> Work:
    generate = prompt.generate and model.anatomy.is_causal
    if prompt.completion and not model.anatomy.is_causal:
        raise InvalidPrompt(prompt.where, f"it has a completion, but {model.name} is an encoder, which writes nothing")
    asks = generate or prompt.completion
    text = _chat(model, prompt.text) if options.chat and asks else prompt.text
    token_ids = tuple(model.tokenizer(text, add_special_tokens=text is prompt.text, verbose=False)["input_ids"])
    if not token_ids:
        raise InvalidPrompt(prompt.where, "the tokenizer makes no token of it")
    completion_ids = _completion_ids(model, prompt, text, token_ids) if prompt.completion else ()
    if worst := [token_id for token_id in token_ids + completion_ids if token_id >= model.anatomy.vocab_size]:
        raise InvalidPrompt(prompt.where, f"the tokenizer gives token {worst[0]}, which the model does not have")
    room = options.max_new_tokens if generate else 0
    if model.context is not None:
        if (n_tokens := len(token_ids) + len(completion_ids)) + min(room, 1) > model.context:
            raise PromptTooLong(prompt.where, n_tokens, model.context)
        room = min(room, model.context - len(token_ids))
    n_masked = token_ids.count(model.mask_id) if model.mask_id is not None else 0
    targets = _targets(model, prompt, n_masked) if model.mask_id is not None else ()
    return Work(index, prompt, text, token_ids, room, completion_ids, n_masked, targets)


def _completion_ids(model: Model, prompt: Prompt, text: str, token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens of a supplied completion: as it is cut after its prompt, or alone where that cuts the prompt otherwise."""
    whole = model.tokenizer(text + prompt.completion, add_special_tokens=text is prompt.text, verbose=False)[
        "input_ids"
    ]
    if tuple(whole[: len(token_ids)]) == token_ids and len(whole) > len(token_ids):
        return tuple(whole[len(token_ids) :])
    alone = tuple(model.tokenizer(prompt.completion, add_special_tokens=False, verbose=False)["input_ids"])
    if not alone:
        raise InvalidPrompt(prompt.where, "the tokenizer makes no token of its completion")
    return alone


def _targets(model: Model, prompt: Prompt, n_masked: int) -> tuple[int, ...]:
    """The tokens that a record's `targets` names, one for each mask. Raises InvalidPrompt."""
    texts = prompt.metadata.get("targets", [])
    if not isinstance(texts, list) or len(texts) not in (0, n_masked):
        raise InvalidPrompt(prompt.where, f'its "targets" are not a list of {n_masked} texts, one for each mask')
    targets = [model.tokenizer(str(text), add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    for text, ids in zip(texts, targets, strict=True):
        if len(ids) != 1:
            raise InvalidPrompt(prompt.where, f"the target {text!r} is {len(ids)} tokens, and a mask stands for one")
    return tuple(token_id for (token_id,) in targets)


def _chat(model: Model, text: str) -> str:
    if not model.tokenizer.chat_template:
        raise InvalidOption("chat", True, f"the tokenizer of {model.name} has no chat template")
    message = [{"role": "user", "content": text}]
    return str(model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _batches(works: Sequence[Work], options: CaptureOptions, procedure: Procedure) -> Iterator[tuple[Work, ...]]:
    if options.batch_size != "auto":
        for start in range(0, len(works), options.batch_size):
            yield tuple(works[start : start + options.batch_size])
        return
    batch: list[Work] = []
    for work in works:  # ascending in length, so the last one sets the width
        n_tokens = (len(batch) + 1) * work.max_tokens
        if batch and (n_tokens > procedure.batch_tokens or len(batch) == procedure.batch_texts):
            yield tuple(batch)
            batch = []
        batch.append(work)
    yield tuple(batch)
