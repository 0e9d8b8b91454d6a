"""Integrated gradients of a generation that is stored, through Captum, with the model that wrote it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float64

from ..errors import InvalidOption, MissingLibrary
from .asking import AskedModel

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["zero", "mean", "pad"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""Where the path to the embeddings begins: at zeros, at the mean of all tokens' embeddings, or at the padding token's."""

Rule = Literal["gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""How Captum adds up along the path."""

TOKENS_AT_ONCE = 1024
"""Positions of all points of the path that go through the model together, unless told: the bound on memory."""

Attributed = tuple[Float64[np.ndarray, "inputs"], float]


def check_options(n_steps: int, baseline: str, rule: str) -> None:
    """Raise InvalidOption for what cannot be used, and MissingLibrary without Captum."""
    if not isinstance(n_steps, int) or isinstance(n_steps, bool) or n_steps < 1:
        raise InvalidOption("n_steps", n_steps, "give a whole number, 1 or more")
    if baseline not in BASELINES:
        raise InvalidOption("baseline", baseline, f"choose one of {', '.join(BASELINES)}")
    if rule not in RULES:
        raise InvalidOption("rule", rule, f"choose one of {', '.join(RULES)}")
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("captum", "gen.integrated_gradients", "captum") from error


def integrated_scores(
    model: AskedModel,
    token_ids: Sequence[int],
    output_position: int,
    *,
    target: str,
    n_steps: int,
    baseline: Baseline,
    rule: Rule,
    tokens_at_once: int = TOKENS_AT_ONCE,
    go_on: Callable[[], None] = lambda: None,
) -> Attributed:
    """The integrated gradients of a written token's target with respect to each embedding before it, summed over the
    embedding's values: float64 [output_position], and by how much they miss the completeness that they have in the limit
    (their sum less the difference of the target between the embeddings and the baseline).

    `target` is logit, logprob, or contrast (less the logit of the token that is the runner-up at the embeddings). Cost:
    `n_steps` forward and backward passes over the text before the token; `go_on` is called before each, and may raise to end
    it. Needs Captum.
    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
    """
    from captum.attr import IntegratedGradients

    ids = list(token_ids[:output_position])

    def watched(embedded: "Tensor") -> "Tensor":
        go_on()
        return value(embedded)

    with model.plainly():
        embeddings = model.embedded(ids)[None]  # (1, pos, d_model)
        start = _start(model, embeddings, baseline)
        value = _target(model, ids, embeddings, int(token_ids[output_position]), target)
        attributions, delta = IntegratedGradients(watched).attribute(
            embeddings,
            start,
            n_steps=n_steps,
            method=rule,
            internal_batch_size=max(1, tokens_at_once // max(1, len(ids))),
            return_convergence_delta=True,
        )
        return attributions[0].detach().double().sum(-1).cpu().numpy(), float(delta)


def _start(model: AskedModel, embeddings: "Tensor", baseline: Baseline) -> "Tensor":
    if baseline == "zero":
        return embeddings * 0
    tokens = [model.pad_id] if baseline == "pad" else range(model.anatomy.vocab_size)
    return model.embedded(tokens).mean(0).expand_as(embeddings)


def _target(
    model: AskedModel, ids: Sequence[int], embeddings: "Tensor", token_id: int, target: str
) -> "Callable[[Tensor], Tensor]":
    """What is explained, as a function of the embeddings."""
    runner_up = token_id
    if target == "contrast":
        first, second = model.logits_of(ids, embeddings)[0, -1].detach().topk(2).indices.tolist()
        runner_up = second if first == token_id else first

    def value(embedded: "Tensor") -> "Tensor":
        logits = model.logits_of(ids, embedded)[:, -1].float()  # (rows, vocab)
        if target == "logprob":
            logits = logits.log_softmax(-1)
        found = logits[:, token_id]
        return found - logits[:, runner_up] if target == "contrast" else found

    return value
