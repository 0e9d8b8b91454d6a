"""How a run is done, beside what it is: how large its batches are, and whether text is recorded as it is written.

Both bear on the last bits of values, and one depends on the memory that is free. So they are chosen when the run registers
and kept with it, and whoever does a part of it later, or beside others, does it the same way.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from . import memory
from .gradients import N_SCORES
from .models import Model
from .options import CaptureOptions
from .steps import steps_suffice


@dataclass(frozen=True)
class Procedure:
    """The most tokens and texts of a batch whose size is "auto"; whether written text is recorded in the steps that write it,
    not replayed; and how many positions go backward at once where that is "auto", None for what fits when a batch is done.
    The defaults are those of runs that say nothing, which were registered before they could.
    """

    batch_tokens: int = 512
    batch_texts: int = 32
    records_steps: bool = False
    gradient_tokens: int | None = None

    def beside(self, generation_config: str) -> str:
        """A run's `generation_config` with the procedure in it."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(json.loads(generation_config) | kept)


def choose(model: Model, layers: Sequence[int], options: CaptureOptions, longest: int) -> Procedure:
    """The procedure of a new run, whose `longest` text has so many tokens. The first of a model costs a few forward passes over
    a few tokens, which prove that it may be chosen."""
    per_gradient, gradient_tokens = 0, None
    if options.target is not None:
        per_gradient = model.anatomy.d_model if options.records("gradients") else N_SCORES
        gradient_tokens = memory.gradient_tokens(model, longest)
    limits = memory.batch_limits(model, len(layers), longest, per_gradient)
    return Procedure(*limits, steps_suffice(model, options), gradient_tokens)


def of_run(row: Mapping[str, Any]) -> Procedure:
    """The procedure that a row of `runs` keeps."""
    kept = json.loads(row["generation_config"])
    return Procedure(**{field.name: kept[field.name] for field in fields(Procedure) if field.name in kept})
