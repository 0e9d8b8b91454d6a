"""What a capture is to do: prompts as tokens, cut into units of work, and how many bytes that may write.

The units follow from the prompts, the options and the run's procedure alone, so a capture that is run again after a crash
does the missing ones in the same batches as before.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

from ..errors import Counted, InvalidOption, InvalidPrompt, PromptTooLong, UnknownLayer, UnknownNeuron
from ..store import TABLES, Positions, Record
from ..store.index import SEGMENT_TOKENS, rewrites
from ..store.precision import BYTES_PER_VALUE
from .chat import Chat, chat_of
from .lens import check_stream
from .models import Model
from .options import CaptureOptions
from .plainly import plainly
from .procedure import Procedure
from .prompts import Prompt
from .stretches import stretch_of
from .supplied import completion_ids

BYTES_PER_SCORES = 16
"""What the scores of one pair of positions take in a file, roughly."""
BYTES_PER_PREDICTION = 100
"""What one row of `layer_predictions` takes in a file, roughly."""
BY_LAYER: tuple[Record, ...] = ("activations", "hidden_states", "layer_predictions")
BYTES_PER_WORD = 8
"""What the text of a token takes, roughly."""
BYTES_PER_FILE, BYTES_PER_CHUNK = 600, 280
WINDOW = 512
"""Prompts are sorted by length within windows of this many, so that a file's generation ids lie close together."""

TokenIds: TypeAlias = "array[int]"
"""Token ids at four bytes each, since a corpus of them is in memory."""

NO_TOKENS: TokenIds = array("i")


@dataclass(frozen=True, slots=True)
class Work:
    """One prompt as the model reads it; `max_new_tokens` is 0 for a text that is captured as it stands, and when `completion_ids`
    are what counts as written.

    `n_masked` positions of it are masked, for a masked language model to fill; `targets` are the tokens to explain there,
    none for the likeliest. `chat` is what the chat template made of it, `text`, and whose part is which. `stretch` numbers
    the lengths to which it belongs (`stretches.py`).
    """

    prompt_index: int
    prompt: Prompt
    text: str
    token_ids: TokenIds
    max_new_tokens: int
    completion_ids: TokenIds = field(default_factory=lambda: NO_TOKENS)
    n_masked: int = 0
    targets: tuple[int, ...] = ()
    chat: Chat | None = None
    stretch: int = 0

    @property
    def max_tokens(self) -> int:
        return len(self.token_ids) + len(self.completion_ids) + self.max_new_tokens


@dataclass(frozen=True)
class Plan:
    """All the work of a run, and of what it records activations: layers, neurons (None: all of them), positions."""

    works: Sequence[Work]
    layers: tuple[int, ...]
    neurons: tuple[int, ...] | None = None
    positions: Positions = Positions()  # noqa: RUF009  frozen

    @property
    def longest(self) -> int:
        """The most tokens that a text can have."""
        return max(work.max_tokens for work in self.works)

    def units(self, options: CaptureOptions, procedure: Procedure) -> Iterator[tuple[Work, ...]]:
        """Work in batches: texts of about the same length and of one stretch, that have the same number of tokens to write."""
        for start in range(0, len(self.works), WINDOW):
            window = sorted(
                self.works[start : start + WINDOW], key=lambda w: (w.stretch, w.max_new_tokens, w.max_tokens)
            )
            for _, alike in groupby(window, key=lambda work: (work.stretch, work.max_new_tokens)):
                yield from _batches(list(alike), options, procedure)


@plainly()
def make_plan(model: Model, prompts: Sequence[Prompt], options: CaptureOptions) -> Plan:
    """Tokens, layers and batches of a run. Raises InvalidPrompt, PromptTooLong, UnknownLayer, UnknownNeuron or InvalidOption."""
    if not prompts:
        raise InvalidPrompt("prompts", "there is none; give a file or a text")
    if options.ffn not in (None, model.anatomy.ffn):
        raise InvalidOption("ffn", options.ffn, f"the model was loaded with {model.anatomy.ffn}")
    layers = tuple(sorted(set(range(model.anatomy.n_layers) if options.layers is None else options.layers)))
    if unknown := [layer for layer in layers if not 0 <= layer < model.anatomy.n_layers]:
        raise UnknownLayer(unknown, range(model.anatomy.n_layers))
    if options.target and not model.anatomy.is_causal and model.mask_id is None:
        wanted = f"{model.name} is an encoder that predicts no token, so there are no gradients; leave them out"
        raise InvalidOption("record", ",".join(options.record), wanted)
    if options.chat and not model.anatomy.is_causal:
        raise InvalidOption("chat", True, f"{model.name} is an encoder, which answers nothing")
    check_stream(model, options)
    works = [_work(model, index, prompt, options) for index, prompt in enumerate(prompts)]
    if not any(map(options.records, BY_LAYER)):
        return Plan(works, ())
    positions = Positions(options.every, options.only_generated)
    if not any(positions.count(len(work.token_ids), work.max_tokens) for work in works):
        wanted = "nothing is written after any of these texts, so the run would record nothing of their layers"
        raise InvalidOption("only_generated", True, wanted)
    return Plan(works, layers, _neurons(model, options) if options.records("activations") else None, positions)


def byte_budget(model: Model, plan: Plan, options: CaptureOptions) -> dict[str, int]:
    """For each table that grows, about how many bytes the run writes at most: if every text gets all its tokens."""
    per_value = BYTES_PER_VALUE[options.precision]
    n_texts, n_files = len(plan.works), sum(1 for _ in plan.units(options, Procedure()))
    d_model, tokens = model.anatomy.d_model, sum(work.max_tokens for work in plan.works)
    pairs = sum(
        sum(range(len(work.token_ids), work.max_tokens)) + work.n_masked * len(work.token_ids) for work in plan.works
    )
    positions = sum(plan.positions.count(len(work.token_ids), work.max_tokens) for work in plan.works)
    texts = sum(len(f"{work.text}{dict(work.prompt.metadata)}".encode()) for work in plan.works)
    texts += BYTES_PER_WORD * sum(work.max_tokens - len(work.token_ids) for work in plan.works)
    budget = {
        "generations": 200 * n_texts + 3 * texts + _chunks("generations", n_files),  # a footer repeats two of the texts
        "tokens": 24 * tokens + _chunks("tokens", n_files),
    }
    if options.records("embeddings"):
        budget["embeddings"] = round(tokens * d_model * per_value) + _chunks("embeddings", n_files, n_texts)
    if options.records("gradients"):
        budget["gradients"] = round(pairs * d_model * per_value) + _chunks("gradients", n_files, n_texts)
    if options.records("gradient_scores"):
        budget["gradient_scores"] = pairs * BYTES_PER_SCORES + _chunks("gradient_scores", n_files, n_texts)
    if options.records("activations"):
        n_neurons = model.anatomy.d_ff if plan.neurons is None else len(plan.neurons)
        values = round(positions * len(plan.layers) * n_neurons * per_value)
        budget["activation_vectors"] = values + _chunks("activation_vectors", n_files, n_texts * len(plan.layers))
        budget |= _projection_budget(options, positions, n_texts, n_files, len(plan.layers), n_neurons, values)
    if options.records("hidden_states"):
        n_layers = len(plan.layers) + 1
        budget["hidden_states"] = round(positions * n_layers * d_model * per_value)
        budget["hidden_states"] += _chunks("hidden_states", n_files, n_texts * n_layers)
    if options.records("layer_predictions"):
        budget["layer_predictions"] = positions * len(plan.layers) * BYTES_PER_PREDICTION
        budget["layer_predictions"] += _chunks("layer_predictions", n_files, n_texts)
    return budget


def _projection_budget(
    options: CaptureOptions,
    positions: int,
    n_texts: int,
    n_units: int,
    n_layers: int,
    n_neurons: int,
    values: int,
) -> dict[str, int]:
    """The same for the projection: statistics, which the capture makes, and vectors, which the index step makes. Some special
    tokens, which have statistics of their own, a text."""
    n_segments = -(-positions // SEGMENT_TOKENS)
    n_counted = min(n_units, n_segments + options.part.n_shards - 1)  # each process has a last one
    n_rows = n_layers * n_neurons * n_counted
    statistics = sum(100 + 5 * min(n, 40) + 3 * min(n, 200) // 2 for n in (positions, min(positions, 2 * n_texts)) if n)
    groups = n_layers * n_counted * -(-n_neurons // 512)
    budget = {
        "segments": 4 * positions + _chunks("segments", n_counted),
        "neuron_partials": n_rows * statistics + _chunks("neuron_partials", n_layers * n_counted, groups),
    }
    if not options.index:
        return budget
    n_files, n_written = n_segments * n_layers, 1 + rewrites(positions)
    vectors = values + _chunks("neuron_vectors", n_files, n_files + (4 * values >> 21))
    return {
        "segments": n_written * (budget["segments"] + 4 * positions + _chunks("segments", n_segments)),
        "neuron_vectors": n_written * vectors,
        "neuron_partials": n_written * budget["neuron_partials"],
    }


def _chunks(table: str, n_files: int, n_groups: int = 0) -> int:
    """What files take beside their values: a footer, and what it and a page's header say of each column of a row group."""
    return n_files * BYTES_PER_FILE + max(n_files, n_groups) * len(TABLES[table].columns) * BYTES_PER_CHUNK


def _neurons(model: Model, options: CaptureOptions) -> tuple[int, ...] | None:
    """The neurons to record, None for all."""
    d_ff, asked = model.anatomy.d_ff, sorted({int(neuron) for neuron in options.neurons or ()})
    if unknown := [neuron for neuron in asked if not 0 <= neuron < d_ff]:
        raise UnknownNeuron(unknown, d_ff)
    return tuple(asked) if 0 < len(asked) < d_ff else None


def _work(model: Model, index: int, prompt: Prompt, options: CaptureOptions) -> Work:
    generate = prompt.generate and model.anatomy.is_causal
    if prompt.completion and not model.anatomy.is_causal:
        raise InvalidPrompt(prompt.where, f"it has a completion, but {model.name} is an encoder, which writes nothing")
    if prompt.messages and not model.anatomy.is_causal:
        raise InvalidPrompt(prompt.where, f"it has messages, but {model.name} is an encoder, which answers nothing")
    asks = prompt.messages or (options.chat and (generate or prompt.completion))
    chat = chat_of(model, prompt) if asks else None
    text = chat.text if chat else prompt.text
    token_ids = array("i", model.tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"])
    if not token_ids:
        raise InvalidPrompt(prompt.where, "the tokenizer makes no token of it")
    written = NO_TOKENS
    if prompt.completion:
        written = array("i", completion_ids(model, prompt.where, text, token_ids, prompt.completion, special=not chat))
    if worst := [token_id for token_id in token_ids + written if token_id >= model.anatomy.vocab_size]:
        raise InvalidPrompt(prompt.where, f"the tokenizer gives token {worst[0]}, which the model does not have")
    room = options.max_new_tokens if generate else 0
    if model.context is not None:
        if (n_tokens := len(token_ids) + len(written)) + min(room, 1) > model.context:
            counted: Counted = "completion" if written else "prompt" if room else "text"
            raise PromptTooLong(prompt.where, n_tokens, model.context, counted)
        room = min(room, model.context - len(token_ids))
    n_masked = token_ids.count(model.mask_id) if model.mask_id is not None else 0
    targets = _targets(model, prompt, n_masked) if model.mask_id is not None else ()
    stretch = _stretch(model, prompt, len(token_ids), len(written) + room)
    return Work(index, prompt, text, token_ids, room, written, n_masked, targets, chat, stretch)


def _stretch(model: Model, prompt: Prompt, n_tokens: int, n_written: int) -> int:
    """The stretch of a text's lengths. Raises InvalidPrompt if what is written could take it into another."""
    stretch = stretch_of(n_tokens, model.last_of_stretches)
    if stretch != stretch_of(n_tokens + n_written, model.last_of_stretches):
        last = model.last_of_stretches[stretch]
        raise InvalidPrompt(
            prompt.where,
            f"it has {n_tokens} tokens and up to {n_written} would be written; {model.name} computes every position of a text "
            f"otherwise when there are more than {last} (its rotary embedding is LongRoPE), so tokens would be written from "
            f"other values than are recorded; let a text end at {last} tokens, or begin with more",
        )
    return stretch


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
