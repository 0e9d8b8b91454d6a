"""One generation: its text, its tokens, and what was recorded of it as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32

from ..errors import GenerationNotFound, InvalidOption, NotRecorded, UnknownLayer, number_ranges
from ..store import GRADIENT_TARGETS, GradientTarget, Positions, Reader, Snapshot
from .asking import AskedModel, Lens, check_is_of, check_lens
from .display import VIEW_NAMES, Displayed, View, ViewName
from .factor_corpus import IN_MEMORY, factors_of_slice
from .factor_slice import Slice
from .factors import POSITIONS, FactorMethod, FactorOptions, Factors, Negatives, Solver, Which, check_choice
from .heat_map import HeatMap, NeuronOrder, heat_map
from .integrated import Baseline, Rule, check_options, integrated_scores
from .layers import predictions_after_layers, watched_after_layers
from .saliency import Method, SaliencyMatrix, check_method, merged, saliency_matrix, saliency_of_scores
from .words import By, token_groups
from .work import Progress, Work


@dataclass(frozen=True, repr=False)
class Generation(Displayed):
    """A prompt and what the model wrote after it; `n_tokens` positions, the first `n_prompt_tokens` of them the prompt.

    `layers` and `neurons` are those whose activations were recorded, the same neurons in each layer; `hidden_layers` are
    those of which hidden states were (-1: what enters the first block); `gradient_target` is what gradients are of.
    """

    generation_id: int
    run_id: int
    prompt_index: int
    prompt: str
    completion: str
    n_prompt_tokens: int
    n_tokens: int
    finish_reason: str
    metadata: Mapping[str, Any]
    source: Mapping[str, Any] | None
    model: str
    recorded: frozenset[str]
    layers: tuple[int, ...]
    neurons: Sequence[int]
    hidden_layers: tuple[int, ...]
    gradient_target: str | None
    _positions: Positions = field(repr=False, compare=False)
    _reader: Reader = field(repr=False, compare=False)
    _snapshot: Snapshot = field(repr=False, compare=False)

    def __repr__(self) -> str:
        written = self.n_tokens - self.n_prompt_tokens
        return f"Generation({self.generation_id}, {self.n_prompt_tokens} + {written} tokens of {self.model!r})"

    @property
    def text(self) -> str:
        """Prompt and completion; the tokens' character offsets count in it."""
        return self.prompt + self.completion

    @property
    def tokens(self) -> pd.DataFrame:
        """The rows of `tokens`, by position, without generation_id."""
        rows = self._reader.rows(self._snapshot, "tokens", generation_id=self.generation_id)
        return rows.drop_columns(["generation_id"]).to_pandas()

    def embeddings(self) -> Float32[np.ndarray, "positions d_model"]:
        """The input embedding of each token. Raises NotRecorded."""
        return self._vectors("embeddings")

    def gradients(self, output_position: int | None = None) -> Float32[np.ndarray, "pairs d_model"]:
        """Gradients with respect to the embeddings before an output position, by input position.

        Without `output_position`, those of all output positions one after the other: `p` rows for position `p`, then
        `p + 1` for the next. Of a masked language model: for each masked position, with respect to all embeddings.
        Raises NotRecorded; InvalidOption for a position that the model did not write.
        """
        vectors = self._vectors("gradients")
        if output_position is None:
            return vectors
        n_inputs = self._n_inputs()
        if output_position not in n_inputs:
            raise InvalidOption("output_position", output_position, f"choose from {number_ranges(list(n_inputs))}")
        start = sum(n for output, n in n_inputs.items() if output < output_position)
        return vectors[start : start + n_inputs[output_position]]

    @property
    def layer_positions(self) -> Int32[np.ndarray, "positions"]:
        """The positions of what was recorded by layer (activations, hidden states and predictions), ascending: all of them,
        unless the run was told otherwise."""
        return self._positions.of(self.n_prompt_tokens, self.n_tokens)

    @property
    def output_positions(self) -> tuple[int, ...]:
        """The positions that gradients explain, ascending, one for each row of `saliency()`: those that the model wrote, or
        those that were masked; none where no gradients were recorded."""
        if not self.recorded & {"gradients", "gradient_scores"}:
            return ()
        return tuple(self._n_inputs())

    def activations(self, layers: Sequence[int] | None = None) -> Float32[np.ndarray, "positions neurons"]:
        """Activations, [positions, layers × neurons], layer after layer in the order asked for (all, ascending, unless told); one
        that is named twice is there once.

        Row `i` is of position `layer_positions[i]`, column `j` of a layer of neuron `neurons[j]`: of each position and each
        neuron, unless the run recorded some alone. Raises NotRecorded, or UnknownLayer.
        """
        known = self._known("activations", self.layers, layers)
        if not len(self.layer_positions):
            return np.empty((0, len(known) * len(self.neurons)), np.float32)
        return self._reader.layers(self._snapshot, self.generation_id, known)

    def hidden_states(self, layers: Sequence[int] | None = None) -> Float32[np.ndarray, "positions layers d_model"]:
        """The residual stream after these layers, in the order asked for (all that were recorded, ascending, unless told, so
        first layer -1: what enters the first block); one that is named twice is there once. Row `i` is of position
        `layer_positions[i]`.

        Raises NotRecorded, or UnknownLayer.
        """
        known = self._known("hidden_states", self.hidden_layers, layers)
        if not len(self.layer_positions):
            return np.empty((0, len(known), 0), np.float32)
        states = self._reader.layers(self._snapshot, self.generation_id, known, of="hidden_states")
        return states.reshape(len(states), len(known), -1)

    def layer_predictions(self, model: AskedModel | None = None, *, lens: Lens = "normed") -> pd.DataFrame:
        """The rows of `layer_predictions`, by layer and position, without generation_id: as they were recorded, or with the
        `model` computed from the hidden states that were, by a lens of the final norm or without it (`raw`).

        Of hidden states in bfloat16 or float16 they are not quite those that a capture records, which has them unrounded. An
        encoder's, computed, say nothing of a token that came next. Raises NotRecorded, InvalidOption.
        """
        if model is None:
            self._check_recorded("layer_predictions")
            rows = self._reader.rows(self._snapshot, "layer_predictions", generation_id=self.generation_id)
            return rows.drop_columns(["generation_id"]).to_pandas()
        positions, layers = self.layer_positions, [layer for layer in self.hidden_layers if layer >= 0]
        states = self._states_for(model, layers, lens)
        following = [*self._token_ids()[1:], -1]
        targets = [following[position] if model.is_causal else -1 for position in positions.tolist()]
        return predictions_after_layers(model, states, positions, targets, lens)

    def watched(
        self,
        model: AskedModel,
        tokens: Sequence[str | int],
        position: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        lens: Lens = "normed",
    ) -> pd.DataFrame:
        """How likely some tokens (texts, as " key" and " keys", or numbers) are to come after a position (the prompt's last,
        unless told), in what the model would say after each layer: position, layer, token_id, token, rank (1 is the
        likeliest), probability. From stored hidden states. Raises NotRecorded, UnknownLayer, InvalidOption.
        """
        place = self.n_prompt_tokens - 1 if position is None else position
        (rows,) = np.nonzero(self.layer_positions == place)
        if not len(rows):
            known = number_ranges(self.layer_positions.tolist()) or "none: no hidden states were recorded"
            raise InvalidOption("position", place, f"choose from {known}")
        ids = model.token_ids_of(tokens)
        if not ids:
            raise InvalidOption("tokens", list(tokens), "name at least one token")
        texts = [token if isinstance(token, str) else f"#{token}" for token in tokens]
        asked = [layer for layer in self.hidden_layers if layer >= 0] if layers is None else list(layers)
        states = {layer: of[rows] for layer, of in self._states_for(model, asked, lens).items()}
        named = dict(zip(ids, texts, strict=True))
        return watched_after_layers(model, states, self.layer_positions[rows], named, lens)

    def saliency(self, method: Method = "grad_x_input", by: By = "token") -> SaliencyMatrix:
        """Shares of each input in each generated token, [output positions, input positions]; a row sums to 1.

        Row `r` is output position `n_prompt_tokens + r`, or masked position number `r`. From the stored gradients and embeddings,
        or from the scores that the run kept in their place. `by` adds the scores of tokens up to those of words or lines:
        `.groups` says of which positions each row and column then is. Raises NotRecorded when neither is there; InvalidOption.
        """
        groups = self.groups(by)
        matrix = merged(self._saliency(method), groups, self.output_positions, by)
        matrix.generation = self
        return matrix

    def integrated_gradients(
        self,
        model: AskedModel,
        *,
        output_positions: Sequence[int] | None = None,
        n_steps: int = 50,
        baseline: Baseline = "mean",
        rule: Rule = "gausslegendre",
        target: GradientTarget | None = None,
        by: By = "token",
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> SaliencyMatrix:
        """Shares of each input in each generated token (or those at `output_positions`) by integrated gradients, signed: a row's
        scores add up to what the embeddings, and not the `baseline` (zero, mean or pad), make of the token's target, but for
        `.deltas`, which shrink with `n_steps`.

        Computed by Captum with the model that the generation was captured with; `target` is the run's gradient_target unless
        told (logit, where no gradients were recorded). Cost: `n_steps` forward and backward passes a token; `cancel`, once
        set, ends it within one of them, and `on_progress` is told of tokens. Raises InvalidOption, MissingLibrary, Cancelled.
        Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.
        """
        check_options(n_steps, baseline, rule)
        self._check_model(model)
        if not model.is_causal:
            raise InvalidOption("model", model.name, "integrated gradients are of tokens that a causal model wrote")
        written = range(self.n_prompt_tokens, self.n_tokens)
        asked = list(written) if output_positions is None else sorted(set(output_positions))
        if unknown := set(asked) - set(written):
            raise InvalidOption("output_positions", sorted(unknown), f"choose from {number_ranges(list(written))}")
        explained, ids = target or self.gradient_target or "logit", self._token_ids()
        if explained not in GRADIENT_TARGETS:
            raise InvalidOption("target", explained, f"choose one of {', '.join(GRADIENT_TARGETS)}")
        scores, deltas = np.zeros((len(asked), max(self.n_tokens - 1, 0))), np.zeros(len(asked))
        work = Work("the attribution", len(asked), cancel, on_progress)
        for row, position in enumerate(asked):
            of_row, deltas[row] = integrated_scores(
                model,
                ids,
                position,
                target=explained,
                n_steps=n_steps,
                baseline=baseline,
                rule=rule,
                go_on=work.go_on,
            )
            scores[row, :position] = of_row
            work.did(1)
        matrix = SaliencyMatrix(scores, "integrated_gradients", explained, deltas=deltas)
        explanation = merged(matrix, self.groups(by), asked, by)
        explanation.generation = self
        return explanation

    def groups(self, by: By = "word") -> list[tuple[int, int]]:
        """The first and the last position of each word, or line (`queries.words`). Raises InvalidOption."""
        tokens = self.tokens
        starts, ends, special = (tokens[name].to_numpy() for name in ("char_start", "char_end", "is_special"))
        return token_groups(self.text, starts, ends, special, by)

    def _saliency(self, method: Method) -> SaliencyMatrix:
        if "gradient_scores" in self.recorded:
            check_method(method)
            rows = self._reader.rows(
                self._snapshot, "gradient_scores", columns=[method], generation_id=self.generation_id
            )
            scores = self._by_output(rows[method].to_numpy())
            return saliency_of_scores(scores, self.n_tokens, method, self.gradient_target)
        gradients = self._by_output(self._vectors("gradients"))
        return saliency_matrix(gradients, self.embeddings(), method, self.gradient_target)

    def heat_map(
        self,
        layer: int,
        order: NeuronOrder = "neuron",
        *,
        n_clusters: int = 8,
        most: int = 200,
        seed: int = 0,
    ) -> HeatMap:
        """A layer's activations at each position, of the `most` neurons that vary most, in an order that puts like beside like:
        see `queries.heat_map.heat_map`. Raises NotRecorded, UnknownLayer, InvalidOption.
        """
        values, neurons = self.activations([layer]), np.array(self.neurons, np.int32)
        found = heat_map(
            values,
            neurons,
            layer=layer,
            position=self.layer_positions,
            order=order,
            n_clusters=n_clusters,
            most=most,
            seed=seed,
        )
        return replace(found, generation=self)

    def factors(
        self,
        k: int,
        layers: Sequence[int] | None = None,
        *,
        method: FactorMethod = "nmf",
        positions: Which = "all",
        negatives: Negatives = "auto",
        scale_layers: bool = False,
        seed: int = 0,
        solver: Solver = "hals",
        reruns: int = 0,
        device: str = "auto",
        in_memory_bytes: int = IN_MEMORY,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> Factors:
        """`k` factors of the activations of these layers (all unless told) at all positions, or the prompt's or the generated
        ones alone: see `FactorOptions` and `Factors`.

        More than `in_memory_bytes` of activations are streamed, so that a long text takes no more memory than a corpus; `.tokens`
        is then on disk. `cancel`, once set, ends it with Cancelled; `on_progress` is told of iterations, or of tokens that were
        gone through, and the most there can be. `Store.save` keeps them, for SQL to join; `Store.factors` are those of a
        corpus. Raises InvalidOption, NotRecorded, UnknownLayer, MissingFile, CorruptFile.
        """
        options = FactorOptions(k, method, negatives, scale_layers, seed, solver, reruns, device)
        check_choice("positions", positions, POSITIONS)
        known, at = self._known("activations", self.layers, layers), self.layer_positions
        if positions != "all":
            at = at[(at < self.n_prompt_tokens) == (positions == "prompt")]
        of = Slice(
            generation_id=np.full(len(at), self.generation_id),
            position=at,
            layers=known,
            neuron=np.array(self.neurons, np.int32),
            positions=positions,
            where=None,
            reader=self._reader,
            snapshot=self._snapshot,
        )
        found = factors_of_slice(of, options, in_memory=in_memory_bytes, cancel=cancel, on_progress=on_progress)
        return replace(found, generation=self)

    def show(
        self,
        view: ViewName = "saliency",
        *args: Any,
        output: int | None = None,
        detailed: bool = False,
        factor: int | None = None,
        cell: tuple[int, int] | None = None,
        watch: Sequence[str] = (),
        position: int | None = None,
        model: AskedModel | None = None,
        **options: Any,
    ) -> View:
        """A view that displays itself in a notebook: "saliency", "factors", "activations" (a heat map) or "layers".

        The rest goes to `saliency`, `factors`, `heat_map` or `layer_predictions`. `output` (and `detailed` numbers), `factor`
        or `cell` (a layer and a position) say what is pinned. Of layers, the tokens of `watch` are compared at `position` (the
        last of the prompt unless told), by `model`. Raises InvalidOption, and what those raise.
        """
        state: dict[str, Any] = {"output": output, "detailed": detailed, "factor": factor, "cell": cell and list(cell)}
        if view == "layers":
            recorded = "layer_predictions" in self.recorded
            predictions = self.layer_predictions(None if recorded else model, **options)
            at = self.n_prompt_tokens - 1 if position is None else position
            if watch and model is None:
                raise InvalidOption(
                    "watch", list(watch), "give the model, since tokens are watched in what it says: model=…"
                )
            watched = self.watched(model, watch, at) if watch and model is not None else None
            return View(view, self, predictions, state, watched, at)
        makers: dict[str, Callable[..., Any]] = {
            "saliency": self.saliency,
            "factors": self.factors,
            "activations": self.heat_map,
        }
        made = makers.get(view)
        if made is None:
            raise InvalidOption("view", view, f"choose one of {', '.join(VIEW_NAMES)}")
        return View(view, self, made(*args, **options), state)

    def _token_ids(self) -> list[int]:
        rows = self._reader.rows(self._snapshot, "tokens", columns=["token_id"], generation_id=self.generation_id)
        return rows["token_id"].to_pylist()

    def _check_model(self, model: AskedModel) -> None:
        columns = ["model", "model_hash"]
        (run,) = self._reader.rows(self._snapshot, "runs", columns=columns, run_id=self.run_id).to_pylist()
        check_is_of(model, run["model"], run["model_hash"])

    def _states_for(
        self, model: AskedModel, layers: Sequence[int], lens: Lens
    ) -> dict[int, Float32[np.ndarray, "positions d_model"]]:
        """The hidden states of these layers, for a model to say what it would after them."""
        check_lens(lens)
        self._check_recorded("hidden_states")
        states = self.hidden_states(layers)
        self._check_model(model)
        return {layer: np.ascontiguousarray(states[:, number]) for number, layer in enumerate(dict.fromkeys(layers))}

    def _n_inputs(self) -> dict[int, int]:
        """Over how many inputs each output position's gradients go: a masked position's over all, a written token's over
        those before it."""
        if self.n_tokens > self.n_prompt_tokens:
            return {position: position for position in range(self.n_prompt_tokens, self.n_tokens)}
        table = "gradient_scores" if "gradient_scores" in self.recorded else "gradients"
        rows = self._reader.rows(self._snapshot, table, columns=["output_position"], generation_id=self.generation_id)
        return dict.fromkeys(sorted(set(rows["output_position"].to_pylist())), self.n_tokens)

    def _by_output(self, pairs: np.ndarray) -> list[np.ndarray]:
        """Rows of pairs of positions, cut into those of each output position."""
        n_inputs = list(self._n_inputs().values())
        return np.split(pairs, np.cumsum(n_inputs)[:-1]) if n_inputs else []

    def _known(self, what: str, recorded: tuple[int, ...], layers: Sequence[int] | None) -> tuple[int, ...]:
        self._check_recorded(what)
        asked = recorded if layers is None else tuple(dict.fromkeys(layers))
        if not asked or set(asked) - set(recorded):
            raise UnknownLayer(sorted(set(asked) - set(recorded)), recorded)
        return asked

    def _vectors(self, what: Literal["embeddings", "gradients"]) -> Float32[np.ndarray, "rows width"]:
        self._check_recorded(what)
        return self._reader.vectors(self._snapshot, what, generation_id=self.generation_id)

    def _check_recorded(self, what: str) -> None:
        if what not in self.recorded:
            raise NotRecorded(what, sorted(self.recorded), self.generation_id)


def generation_not_found(generation_id: int, snapshot: Snapshot, reader: Reader) -> GenerationNotFound:
    """The error that says what generations there are instead."""
    ids = reader.rows(snapshot, "generations", columns=["generation_id"])["generation_id"].to_pylist()
    return GenerationNotFound(generation_id, len(ids), max(ids, default=None))
