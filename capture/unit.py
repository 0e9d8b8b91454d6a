"""One batch of a run: generated or given, replayed, and made ready for a shard; nothing is written here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..store import CapturedGeneration, CapturedTokens, Reservation
from ..store.statistics import Statistics
from .devices import Arriving
from .generate import FinishReason, continuations, finish_reason
from .lens import of_stream
from .measuring import Measuring
from .models import Model
from .options import CaptureOptions
from .plan import Plan, Work
from .procedure import Procedure
from .replay import Recorded, replay, replay_encoder
from .steps import write_and_record
from .wanted import See, Wanted


@dataclass(frozen=True)
class CapturedBatch:
    """Generations, by number, and the statistics of their activations where the model's device took them."""

    generations: list[CapturedGeneration]
    statistics: Statistics | None


def capture_unit(
    model: Model,
    works: Sequence[Work],
    plan: Plan,
    options: CaptureOptions,
    reservation: Reservation,
    procedure: Procedure,
) -> Arriving[CapturedBatch]:
    """Generate and replay one batch, or record it as it is generated; nothing is written."""
    by_number = sorted(range(len(works)), key=lambda row: works[row].prompt_index)
    measuring = Measuring(by_number, model.text.is_special, options.precision)
    is_elsewhere = model.device.type != "cpu" and options.records("activations")
    prompts = [work.token_ids.tolist() for work in works]
    wanted = _wanted(plan, options, procedure, measuring.see if is_elsewhere else None)
    room, indices = works[0].max_new_tokens, [work.prompt_index for work in works]
    completions = [work.completion_ids.tolist() for work in works]
    if not model.anatomy.is_causal:
        recorded = replay_encoder(model, prompts, [work.targets for work in works], wanted)
    elif room and procedure.records_steps:
        completions, recorded = write_and_record(model, prompts, room, options.sampling, indices, wanted)
    else:
        if room:
            completions = continuations(model, prompts, room, options.sampling, indices)
        texts = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        recorded = replay(model, texts, [len(prompt) for prompt in prompts], wanted)

    def arrived() -> CapturedBatch:
        generations = [
            _captured_generation(model, work, completion, what, plan, options, reservation)
            for work, completion, what in zip(works, completions, recorded(), strict=True)
        ]
        return CapturedBatch([generations[row] for row in by_number], measuring.statistics if is_elsewhere else None)

    return arrived


def _wanted(plan: Plan, options: CaptureOptions, procedure: Procedure, see: See | None) -> Wanted:
    chosen = procedure.gradient_tokens if options.gradient_tokens == "auto" else None
    return Wanted(
        layers=plan.layers if options.records("activations") else (),
        neurons=plan.neurons,
        positions=plan.positions,
        stream=of_stream(plan.layers, options),
        target=options.target,
        scores=options.records("gradient_scores"),
        see=see,
        gradient_tokens=chosen or options.gradient_tokens,
    )


def _captured_generation(
    model: Model,
    work: Work,
    completion: Sequence[int],
    recorded: Recorded,
    plan: Plan,
    options: CaptureOptions,
    reservation: Reservation,
) -> CapturedGeneration:
    text, ids = model.text, [*work.token_ids, *completion]
    char_start, char_end = text.spans(work.text, work.token_ids, completion)
    as_it_stands = model.anatomy.is_causal or not work.prompt.generate  # what is not written is else taken for a `text`
    source = work.prompt.record if work.chat or work.completion_ids or not as_it_stands else None
    reason: FinishReason = "given" if work.completion_ids else "stop"
    if work.max_new_tokens:
        reason = finish_reason(completion, model.end_ids, options.max_new_tokens)
    return CapturedGeneration(
        generation_id=reservation.first_generation_id + work.prompt_index,
        run_id=reservation.run_id,
        prompt_index=work.prompt_index,
        prompt=work.text,
        completion=text.completion(completion) or " ".join(text.text_of(target).strip() for target in recorded.targets),
        n_prompt_tokens=len(work.token_ids),
        finish_reason=reason,
        metadata=work.prompt.metadata,
        tokens=CapturedTokens(
            token_id=np.array(ids, np.int32),
            token=[text.text_of(token_id) for token_id in ids],
            char_start=char_start,
            char_end=char_end,
            is_special=np.array([text.is_special(token_id) for token_id in ids]),
            logprob=recorded.logprob,
            rank=recorded.rank,
            entropy=recorded.entropy,
            role=work.chat.roles(char_start, char_end, len(work.token_ids)) if work.chat else None,
        ),
        embeddings=recorded.embeddings if options.records("embeddings") else None,
        activations=recorded.activations if options.records("activations") else None,
        positions=plan.positions.of(len(work.token_ids), len(ids)),
        gradients=recorded.gradients if options.records("gradients") else None,
        gradient_scores=recorded.gradients if options.records("gradient_scores") else None,
        masked=recorded.masked,
        source=source,
        hidden_states=recorded.hidden_states if options.records("hidden_states") else None,
        layer_predictions=recorded.layer_predictions if options.records("layer_predictions") else None,
    )
