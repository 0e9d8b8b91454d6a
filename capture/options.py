"""The options of a capture, with the same names on the command line, in Python and in the app."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InvalidOption
from ..store import (
    DEFAULT_RECORDS,
    GRADIENT_TARGETS,
    PRECISIONS,
    RECORDS,
    GradientTarget,
    Precision,
    Record,
    parse_bytes,
)
from .anatomy import check_pattern
from .generate import Sampling
from .models import DType
from .shards import Shard
from .stream import LENSES, Lens

Gradients = Literal["vectors", "scores", "off"]
GRADIENTS: tuple[Gradients, ...] = get_args(Gradients)

OF_A_CALL = ("max_bytes", "shard", "force")
"""Options that say what one call does, and nothing of what the run is."""


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """What to write and what to record.

    max_new_tokens  the most tokens to write after each prompt
    record          any of embeddings, gradients, activations, which it is unless told, hidden_states, layer_predictions
    gradients       what is kept of gradients: vectors, scores (their saliency by each method, a small part of the bytes),
                    or off, which is as if `record` did not name them
    layers          the layers of which activations, hidden states and predictions are recorded; all of them unless told
    lens            how layer_predictions are made of a layer's hidden states: normed (the final norm first) or raw
    neurons         the neurons whose activations are recorded, the same in each layer; all of them unless told
    every           what is recorded by layer is at positions 0, N, 2N, … of each generation
    only_generated  what is recorded by layer is at positions that the model wrote, not at those of the prompt
    max_bytes       the most bytes that the run may write, as 2GB, 512MiB or a number; no bound but the disk's unless told
    precision       what recorded vectors are rounded to
    batch_size      texts at once, or "auto": as many as fit into half of the memory that is free, up to where more gain little
    ffn             the FFNNs' output projections, where they are not to be searched: model.layers.{i}.mlp.down_proj
    device, dtype   where and in what type the model computes; "auto" is CUDA and the checkpoint's type, else CPU and float32;
                    "balanced" is all accelerators together, each with some of the blocks
    temperature     0 is greedy; greater values draw, by `seed`, from the `top_k` likeliest tokens (0: all) that
                    together have probability `top_p`
    chat            put each prompt into the model's chat template, as a user's message
    gradient_target what of each written token the gradients are of: its logit, its logprob, or contrast: its logit less
                    that of the likeliest other token
    gradient_tokens positions that go backward at once, the bound on the gradients' memory; "auto": what fits into half
                    of the memory that is free when the run registers, up to where more gain nothing
    name            a name of the run for people
    index           bring what was captured into the neuron-major projection at the end
    shard           "2/8" or (2, 8): of eight processes that capture this run, the second; None is one that does all
    force           start the run anew, as another run, though the store has it
    """

    max_new_tokens: int = 40
    record: Sequence[Record] = DEFAULT_RECORDS
    gradients: Gradients = "vectors"
    layers: Sequence[int] | None = None
    lens: Lens = "normed"
    neurons: Sequence[int] | None = None
    every: int = 1
    only_generated: bool = False
    max_bytes: int | str | None = None
    precision: Precision = "bfloat16"
    batch_size: int | Literal["auto"] = "auto"
    ffn: str | None = None
    device: str = "auto"
    dtype: DType = "auto"
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    chat: bool = False
    gradient_target: GradientTarget = "logit"
    gradient_tokens: int | Literal["auto"] = "auto"
    name: str | None = None
    index: bool = True
    shard: str | tuple[int, int] | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidOption("max_new_tokens", self.max_new_tokens, "give 1 or more")
        if isinstance(self.record, str) or set(self.record) - set(RECORDS):
            raise InvalidOption("record", self.record, f"give any of {', '.join(RECORDS)}")
        if self.gradients not in GRADIENTS:
            raise InvalidOption("gradients", self.gradients, f"choose one of {', '.join(GRADIENTS)}")
        if self.gradients == "scores" and "gradients" not in self.record:
            raise InvalidOption("gradients", self.gradients, "let `record` name gradients")
        if self.lens not in LENSES:
            raise InvalidOption("lens", self.lens, f"choose one of {', '.join(LENSES)}")
        if self.precision not in PRECISIONS:
            raise InvalidOption("precision", self.precision, f"choose one of {', '.join(PRECISIONS)}")
        if self.ffn is not None:
            check_pattern(self.ffn)
        if self.gradient_target not in GRADIENT_TARGETS:
            raise InvalidOption("gradient_target", self.gradient_target, f"choose one of {', '.join(GRADIENT_TARGETS)}")
        if self.layers is not None and not len(self.layers):
            raise InvalidOption("layers", self.layers, "name at least one, or leave what is by layer out of `record`")
        if self.neurons is not None and not len(self.neurons):
            raise InvalidOption("neurons", self.neurons, "name at least one, or leave `activations` out of `record`")
        if not isinstance(self.every, int) or self.every < 1:
            raise InvalidOption("every", self.every, "give 1 or more")
        if self.most_bytes is not None and self.most_bytes < 1:
            raise InvalidOption("max_bytes", self.max_bytes, "give 1 or more")
        for name in ("batch_size", "gradient_tokens"):
            value = getattr(self, name)
            if value != "auto" and not (isinstance(value, int) and value >= 1):
                raise InvalidOption(name, value, 'give 1 or more, or "auto"')
        if not -(2**63) <= self.seed < 2**63:
            raise InvalidOption("seed", self.seed, "give a 64-bit integer")
        _ = self.sampling
        if self.part.number > 1 and self.force:
            raise InvalidOption("force", True, "the first shard alone starts a run anew; leave it out for the others")

    @property
    def part(self) -> Shard:
        """The part of the run that is to be done."""
        return Shard.of(self.shard)

    @property
    def most_bytes(self) -> int | None:
        """`max_bytes` as a number."""
        return parse_bytes(self.max_bytes, "max_bytes") if isinstance(self.max_bytes, str) else self.max_bytes

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed)

    @property
    def recorded(self) -> tuple[str, ...]:
        """What is recorded, in the words of `runs.recorded`."""
        of_gradients = {"vectors": "gradients", "scores": "gradient_scores", "off": None}[self.gradients]
        kept = (of_gradients if what == "gradients" else what for what in RECORDS if what in self.record)
        return tuple(what for what in kept if what)

    def records(self, what: Record | Literal["gradient_scores"]) -> bool:
        return what in self.recorded

    @property
    def target(self) -> GradientTarget | None:
        """What gradients are of, None where none are wanted."""
        wanted = self.records("gradients") or self.records("gradient_scores")
        return self.gradient_target if wanted else None
