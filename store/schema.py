"""The tables that a store keeps: names, columns, types and meanings.

Every other fact about a table follows from here: the Parquet files' schema, how they are sorted and grouped, and the
comments that SQL and the docs show. Derived views (`activations`, `saliency`) are in `queries/*.sql`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import pyarrow as pa

FORMAT = 6
"""The version of the store's format that this code writes, and the newest that it reads (docs/format.md)."""

VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False))
"""Every recorded vector: a list of 32-bit floats, rounded to the run's precision."""

Record = Literal["embeddings", "gradients", "activations", "hidden_states", "layer_predictions"]
RECORDS: tuple[Record, ...] = get_args(Record)
"""What a run may record of each generation, beside its tokens."""

DEFAULT_RECORDS: tuple[Record, ...] = ("embeddings", "gradients", "activations")
"""What a run records unless told."""

GradientTarget = Literal["logit", "logprob", "contrast"]
GRADIENT_TARGETS: tuple[GradientTarget, ...] = get_args(GradientTarget)
"""What of a generated token the gradients are of: its logit, its log-probability, or its logit less the runner-up's."""

ID, COUNT, INDEX, INDICES = pa.int64(), pa.int32(), pa.int32(), pa.list_(pa.int32())
TEXT, TEXTS, FLAG = pa.string(), pa.list_(pa.string()), pa.bool_()
REAL, REALS, DOUBLES = pa.float32(), pa.list_(pa.float32()), pa.list_(pa.float64())
TIME = pa.timestamp("us")


@dataclass(frozen=True)
class Column:
    """A column of a table; a row's key is never null. Files of formats before `since` lack it: there it is null."""

    name: str
    type: pa.DataType
    comment: str
    key: bool = False
    nullable: bool = False
    since: int = 1

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.type, nullable=self.nullable)


@dataclass(frozen=True)
class Table:
    """A table: its files are sorted by `sort`, and a row group ends where a column of `row_group` changes.

    `sort` is the key unless another order of it reads better. A row group has at most `group_rows` rows, few enough that
    pyarrow makes one page of a column, and at most `group_bytes` of vectors (but one row at least). It `repeats` when the
    same vector is often there several times.
    """

    name: str
    comment: str
    columns: tuple[Column, ...]
    row_group: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    group_rows: int = 1 << 14
    group_bytes: int = 1 << 24
    repeats: bool = False

    @cached_property
    def arrow(self) -> pa.Schema:
        return pa.schema([column.field for column in self.columns])

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.key)

    def column(self, name: str) -> Column:
        """The column of that name."""
        return self.columns[self.arrow.get_field_index(name)]

    @cached_property
    def has_grown(self) -> bool:
        """Whether files of an older format lack a column."""
        return any(column.since > 1 for column in self.columns)

    @cached_property
    def vector(self) -> str | None:
        """The name of the vector column, if the table has one."""
        return next((column.name for column in self.columns if column.type == VECTOR), None)


def _generation_key(*more: Column) -> tuple[Column, ...]:
    return (Column("generation_id", ID, "the generation", key=True), *more)


_POSITION = Column("position", INDEX, "0-based index of the token in its generation, prompt first", key=True)
_LAYER = Column("layer", INDEX, "0-based index of the transformer block", key=True)

RUNS = Table(
    "runs",
    "one row for each capture: one model, one set of options, many prompts",
    (
        Column("run_id", ID, "0-based number of the run in its store", key=True),
        Column("name", TEXT, "a name for people; the model's unless told"),
        Column("model", TEXT, "the model as it was asked for"),
        Column("model_revision", TEXT, "the hub's commit of the model, where there is one", nullable=True),
        Column("model_hash", TEXT, "SHA-256 of the weights, by name, shape, type and bytes"),
        Column("tokenizer_hash", TEXT, "SHA-256 of the tokenizer's definition"),
        Column("architecture", TEXT, "the class of the model in transformers"),
        Column("n_layers", COUNT, "transformer blocks"),
        Column("d_model", COUNT, "width of the residual stream"),
        Column("d_ff", COUNT, "neurons in the FFNN of one layer"),
        Column("vocab_size", COUNT, "tokens in the vocabulary of the unembedding"),
        Column("precision", TEXT, "what the recorded vectors were rounded to: bfloat16, float16 or float32"),
        Column(
            "recorded",
            TEXTS,
            "which of embeddings, gradients, gradient_scores (in place of gradients), activations, hidden_states, "
            "layer_predictions were recorded",
        ),
        Column(
            "gradient_target",
            TEXT,
            "what of the generated token gradients are of: logit, logprob, or contrast (its logit less the runner-up's)",
            nullable=True,
        ),
        Column(
            "generation_config",
            TEXT,
            "JSON: how text was generated, which layers were recorded (`neurons`, `every` and `only_generated` where not all "
            "neurons and positions were); device, options as given, where prompts came from",
        ),
        Column("seed", ID, "seed of the sampler"),
        Column("versions", TEXT, "JSON: versions of the libraries that captured"),
        Column("created_at", TIME, "when the run was registered, UTC"),
        Column("status", TEXT, "capturing, or complete"),
    ),
)

GENERATIONS = Table(
    "generations",
    "one row for each prompt and what the model wrote after it",
    _generation_key(
        Column("run_id", ID, "the run that captured it"),
        Column("prompt_index", ID, "0-based index of the prompt among the run's"),
        Column("prompt", TEXT, "the text that the model was given"),
        Column(
            "completion",
            TEXT,
            "the text that it wrote, special tokens left out; what a masked language model has at its masks",
        ),
        Column("n_prompt_tokens", COUNT, "tokens of the prompt"),
        Column("n_tokens", COUNT, "tokens of prompt and completion"),
        Column(
            "finish_reason",
            TEXT,
            "stop (the model ended it; of a text captured as it stands: nothing was to be written), length (max_new_tokens), "
            "context (no room left) or given (supplied)",
        ),
        Column("metadata", TEXT, "JSON: every other field of the prompt's record"),
        Column(
            "source",
            TEXT,
            "JSON: messages, or prompt and completion, as the record gave them, where prompt is not the record's own text "
            "(a chat template made it) or the completion was supplied",
            nullable=True,
            since=4,
        ),
    ),
)

TOKENS = Table(
    "tokens",
    "one row for each token of each generation",
    _generation_key(
        _POSITION,
        Column("token_id", INDEX, "index in the tokenizer's vocabulary"),
        Column("token", TEXT, "its text; bytes that are not whole characters as <0xE2>"),
        Column("char_start", COUNT, "offset of its first character in prompt + completion"),
        Column("char_end", COUNT, "offset after its last character"),
        Column("is_generated", FLAG, "whether the model wrote it"),
        Column("is_special", FLAG, "whether it is a special token (start, end, role marks)"),
        Column(
            "logprob",
            REAL,
            "log-probability that the model gave it (or the token at its mask), natural log",
            nullable=True,
        ),
        Column("rank", COUNT, "its place among the predictions; 1 is the likeliest", nullable=True),
        Column("entropy", REAL, "of the distribution that predicted it, in nats", nullable=True),
        Column(
            "role",
            TEXT,
            "whose message of a chat it belongs to (system, user, assistant, tool); the template's own marks are nobody's",
            nullable=True,
            since=4,
        ),
    ),
)

EMBEDDINGS = Table(
    "embeddings",
    "the input embedding of each token, before positions are added",
    _generation_key(_POSITION, Column("embedding", VECTOR, "FLOAT[d_model]")),
    row_group=("generation_id",),
    repeats=True,
)

GRADIENTS = Table(
    "gradients",
    "the gradient of each generated token's logit (or the run's gradient_target) with respect to each earlier token's embedding; "
    "of a masked language model, of the same of the token at each masked position with respect to every token's embedding",
    _generation_key(
        Column("output_position", INDEX, "position of the generated or masked token", key=True),
        Column(
            "input_position",
            INDEX,
            "position of the earlier token, or of any token of a masked language model's text",
            key=True,
        ),
        Column("gradient", VECTOR, "FLOAT[d_model], logits (nats, of logprob) per unit of embedding"),
    ),
    row_group=("generation_id",),
)

GRADIENT_SCORES = Table(
    "gradient_scores",
    "saliency scores of gradients that were not kept, for each generated token and each earlier one (each masked token and every "
    "one of its text), by each method",
    _generation_key(
        Column("output_position", INDEX, "position of the generated or masked token", key=True),
        Column(
            "input_position",
            INDEX,
            "position of the earlier token, or of any token of a masked language model's text",
            key=True,
        ),
        Column("grad_x_input", REAL, "L2 norm of gradient times embedding, element by element"),
        Column("grad_norm", REAL, "L2 norm of the gradient"),
        Column("grad_dot_input", REAL, "signed sum of gradient times embedding"),
        Column("grad_x_input_l1", REAL, "sum of absolute values of gradient times embedding"),
    ),
    row_group=("generation_id",),
)

ACTIVATION_VECTORS = Table(
    "activation_vectors",
    "the activations of one layer's neurons, all or those that the run recorded, at one position (token-major)",
    _generation_key(
        _POSITION,
        _LAYER,
        Column("activation", VECTOR, "FLOAT[d_ff], by neuron; or a value for each of the run's `neurons`, ascending"),
    ),
    row_group=("generation_id", "layer"),
    sort=("generation_id", "layer", "position"),
)

HIDDEN_STATES = Table(
    "hidden_states",
    "the residual stream after each recorded block at each position; of layer -1, what enters the first block",
    _generation_key(
        _POSITION,
        Column("layer", INDEX, "0-based index of the transformer block; -1 for the first block's input", key=True),
        Column("hidden_state", VECTOR, "FLOAT[d_model]"),
    ),
    row_group=("generation_id", "layer"),
    sort=("generation_id", "layer", "position"),
)

_EXPLAINED = "the token that came next (of a masked language model, of the token that is explained at the mask)"

LAYER_PREDICTIONS = Table(
    "layer_predictions",
    "what the model would say at each position after each recorded block: its final norm and unembedding applied there",
    _generation_key(
        _POSITION,
        _LAYER,
        Column("rank", COUNT, f"place of {_EXPLAINED} among the predictions; 1 is the likeliest", nullable=True),
        Column("probability", REAL, f"probability of {_EXPLAINED}", nullable=True),
        Column("top_token_ids", INDICES, "the ten likeliest tokens, the likeliest first"),
        Column("top_tokens", TEXTS, "their texts"),
        Column("top_probabilities", REALS, "their probabilities"),
    ),
    row_group=("generation_id",),
    sort=("generation_id", "layer", "position"),
    group_rows=1 << 12,
)

_SEGMENT = Column("segment_id", ID, "a number that names a segment: tokens whose activations lie together", key=True)
_NEURON = Column("neuron", INDEX, "0-based index in the FFNN's hidden dimension of the layer", key=True)

SEGMENTS = Table(
    "segments",
    "the tokens of each segment of the neuron-major projection",
    (
        _SEGMENT,
        Column("layers", INDICES, "the layers that the segment has"),
        Column("d_ff", COUNT, "neurons of each layer that the segment has"),
        Column("n_tokens", ID, "tokens of the segment"),
        Column(
            "generation_id", pa.list_(pa.int64()), "each token's generation; tokens are sorted by it and by position"
        ),
        Column("position", INDICES, "each token's position"),
    ),
    group_rows=1,
)

NEURON_VECTORS = Table(
    "neuron_vectors",
    "the activations of one neuron at all tokens of a segment (neuron-major)",
    (_LAYER, _NEURON, _SEGMENT, Column("activation", VECTOR, "FLOAT[n_tokens], by the segment's tokens")),
    group_bytes=1 << 21,
)

NEURON_PARTIALS = Table(
    "neuron_partials",
    "statistics of one neuron over the tokens that a run has in a segment; they add up to neuron_stats and neuron_examples. Not "
    "every segment has them: a token's may be in another than its vectors",
    (
        _LAYER,
        _NEURON,
        _SEGMENT,
        Column("run_id", ID, "the run", key=True),
        Column("is_special", FLAG, "whether of special tokens, or of the others"),
        Column("n", ID, "tokens"),
        Column("mean", pa.float64(), "mean activation"),
        Column("m2", pa.float64(), "sum of squared differences from the mean"),
        Column("min", REAL, "least activation"),
        Column("max", REAL, "greatest activation"),
        Column("n_active", ID, "tokens with an activation above 0"),
        Column("bins", INDICES, "histogram bins that are not empty: the upper 12 bits of a 32-bit float"),
        Column("bin_counts", pa.list_(pa.int64()), "activations in each of those bins"),
        *(
            column
            for sign, which in (("positive", "greatest above"), ("negative", "least below"))
            for column in (
                Column(f"{sign}_generation_id", pa.list_(pa.int64()), f"generations of the {which} 0, at most 20"),
                Column(f"{sign}_position", INDICES, "their positions"),
                Column(f"{sign}_activation", REALS, "their activations"),
            )
        ),
    ),
    group_rows=512,
)

_FACTORIZATION = Column("factorization_id", ID, "0-based number of the saved factorization in its store", key=True)
_FACTOR = Column("factor", INDEX, "0-based index of the factor in its factorization", key=True)

FACTORIZATIONS = Table(
    "factorizations",
    "one row for each saved factorization of activations: what was factored, and how",
    (
        _FACTORIZATION,
        Column("name", TEXT, "a name for people", nullable=True),
        Column("method", TEXT, "how it was made: nmf, pca, ica or kmeans"),
        Column("k", COUNT, "factors"),
        Column("layers", INDICES, "the layers whose activations were factored"),
        Column("d_ff", COUNT, "neurons of each of them that were recorded"),
        Column("n_tokens", ID, "tokens that were factored"),
        Column(
            "slice",
            TEXT,
            "JSON: whose tokens; generations has the numbers, as 0,3-5; positions (prompt or generated) and where (SQL) if not "
            "all of them",
        ),
        Column(
            "negatives",
            TEXT,
            "what became of negative activations: clip (0), split (a column of their own) or keep (nothing)",
        ),
        Column("scale_layers", FLAG, "whether layers were scaled to equal energy before"),
        Column("seed", ID, "seed of the solver"),
        Column("n_iterations", COUNT, "iterations of the solver"),
        Column("converged", FLAG, "whether it ended before it reached its most iterations"),
        Column(
            "error",
            pa.float64(),
            "‖X − WH‖ / ‖X‖ (Frobenius), 0 when X is 0; of pca, ica and kmeans, X less each neuron's mean",
        ),
        Column("versions", TEXT, "JSON: versions of the libraries that saved it"),
        Column("created_at", TIME, "when it was saved, UTC"),
        Column("solver", TEXT, "what computed it: hals (actlake's own) or sklearn", nullable=True, since=5),
        Column("parameters", TEXT, "JSON: the other options of the solver", nullable=True, since=5),
        Column(
            "explained",
            DOUBLES,
            "of each factor, its share of the energy ‖X‖² (of pca, ica and kmeans, of the variance)",
            nullable=True,
            since=5,
        ),
        Column(
            "stability",
            DOUBLES,
            "of each factor, the mean cosine of its weights with those of its match in reruns with other seeds",
            nullable=True,
            since=5,
        ),
    ),
)

FACTOR_TOKENS = Table(
    "factor_tokens",
    "how present each factor of a saved factorization is at each token that was factored",
    (
        _FACTORIZATION,
        *_generation_key(_POSITION, _FACTOR),
        Column("value", REAL, "how present it is: an entry of W; 0 or more but in pca and ica"),
    ),
    sort=("factorization_id", "factor", "generation_id", "position"),
)

FACTOR_NEURONS = Table(
    "factor_neurons",
    "what each factor of a saved factorization is made of: a weight for each neuron of the layers that were factored",
    (
        _FACTORIZATION,
        _FACTOR,
        _LAYER,
        _NEURON,
        Column("weight", REAL, "its weight, an entry of H; where negatives were split, positive minus negative half"),
        Column(
            "positive_half", REAL, "where negatives were split, the weight of its positive half", nullable=True, since=5
        ),
        Column(
            "negative_half",
            REAL,
            "where negatives were split, the weight of its negative half, 0 or more",
            nullable=True,
            since=5,
        ),
        Column(
            "mean",
            REAL,
            "the mean that was taken from its activations before (pca, ica, kmeans); the same in each factor",
            nullable=True,
            since=5,
        ),
    ),
)

LABEL_CHANGES = Table(
    "label_changes",
    "what people called factors and neurons, one row each time: the view labels has what counts now",
    (
        Column("label_id", ID, "0-based number of the change in its store", key=True),
        Column("label", TEXT, "the label; empty takes the one before away"),
        Column("factorization_id", ID, "of a factor: the saved factorization", nullable=True),
        Column("factor", INDEX, "of a factor: its 0-based index in the factorization", nullable=True),
        Column("run_id", ID, "of a neuron: the run, or NULL for all runs", nullable=True),
        Column("layer", INDEX, "of a neuron: its layer", nullable=True),
        Column("neuron", INDEX, "of a neuron: its 0-based index in the layer", nullable=True),
        Column("created_at", TIME, "when it was given, UTC"),
    ),
)

TABLES = {
    table.name: table
    for table in (
        RUNS,
        GENERATIONS,
        TOKENS,
        EMBEDDINGS,
        GRADIENTS,
        GRADIENT_SCORES,
        ACTIVATION_VECTORS,
        HIDDEN_STATES,
        LAYER_PREDICTIONS,
        SEGMENTS,
        NEURON_VECTORS,
        NEURON_PARTIALS,
        FACTORIZATIONS,
        FACTOR_TOKENS,
        FACTOR_NEURONS,
        LABEL_CHANGES,
    )
}
"""Every table that is kept in files, by name."""

PROJECTION = (SEGMENTS, NEURON_VECTORS, NEURON_PARTIALS)
"""The tables that follow from others: the index step writes them, and they can be made again."""
