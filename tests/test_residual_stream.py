"""Hidden states are those of transformers, predictions those of the model's head by hand, and what is not proved is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import CaptureOptions, Model, Progress, byte_budget, load_model, make_plan, prompts_from
from actlake.errors import InvalidOption, UnknownLayer
from actlake.store import RECORDS, Location, rounded, verify
from families import DECODERS, SIZES, T5_SIZES

BOTH = ["hidden_states", "layer_predictions"]
PROMPTS = [" 1, 2, 3,", "The countries of the European Union", {"text": "a"}]


@dataclass(frozen=True)
class Tail:
    """What a family does after its blocks: modules to apply, in order, and what becomes of the logits."""

    config: str
    modules: tuple[str, ...]
    sizes: dict[str, Any] = field(default_factory=dict)
    scaled: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits

    def __str__(self) -> str:
        return self.config


TAILS = (
    Tail("BertConfig", ("cls",)),
    Tail("BloomConfig", ("transformer.ln_f", "lm_head")),
    Tail("CohereConfig", ("model.norm", "lm_head"), {"logit_scale": 0.25}, lambda logits: 0.25 * logits),
    Tail("FalconConfig", ("transformer.ln_f", "lm_head")),
    Tail("GPT2Config", ("transformer.ln_f", "lm_head")),
    Tail("GPTNeoXConfig", ("gpt_neox.final_layer_norm", "lm_head")),
    Tail(
        "Gemma2Config",
        ("model.norm", "lm_head"),
        {"final_logit_softcapping": 5.0},
        lambda logits: 5 * torch.tanh(logits / 5),
    ),
    Tail("GraniteConfig", ("model.norm", "lm_head"), scaled=lambda logits: logits / 3),
    Tail("LlamaConfig", ("model.norm", "lm_head")),
    Tail("MptConfig", ("transformer.norm_f", "lm_head")),
    Tail(
        "OPTConfig",
        ("model.decoder.project_out", "lm_head"),
        {"ffn_dim": 40, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    Tail("OpenAIGPTConfig", ("lm_head",)),
    Tail("PhiConfig", ("model.final_layernorm", "lm_head")),
)
ATTENTION = {"GPT2Config": "attn", "LlamaConfig": "self_attn", "GPTNeoXConfig": "attention"}
SIZES_OF = {family.config: family.all_sizes for family in DECODERS}


@dataclass(frozen=True)
class Recorded:
    tail: Tail
    model: Model
    store: actlake.Store

    def texts(self) -> list[tuple[actlake.Generation, torch.Tensor]]:
        """Each generation, with its token ids as a batch of its own."""
        generations = [self.store.generation(index) for index in range(len(PROMPTS))]
        return [(each, torch.tensor([each.tokens["token_id"].tolist()])) for each in generations]


@pytest.fixture(scope="module", params=TAILS, ids=str)
def recorded(
    request: pytest.FixtureRequest, model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    tail: Tail = request.param
    folder = tmp_path_factory.mktemp(tail.config)
    kind = "AutoModelForMaskedLM" if tail.config == "BertConfig" else "AutoModelForCausalLM"
    sizes = {**(SIZES if "Bert" in tail.config else SIZES_OF[tail.config]), **tail.sizes}
    model = load_model(str(model_saver(folder / "model", tail.config, 4.0, kind=kind, **sizes)))
    record = [*BOTH, "activations"]
    actlake.capture(
        folder / "s", model, PROMPTS, max_new_tokens=4, precision="float32", record=record, batch_size=3, index=False
    )
    assert verify(Location.of(folder / "s"), deep=True).ok
    return Recorded(tail, model, actlake.open(folder / "s"))


@torch.no_grad()
def test_hidden_states_are_those_that_transformers_gives(recorded: Recorded) -> None:
    n_layers = recorded.model.anatomy.n_layers
    for generation, ids in recorded.texts():
        assert generation.hidden_layers == (-1, *range(n_layers))
        of_library = recorded.model.network(ids, output_hidden_states=True).hidden_states
        expected = torch.stack(of_library[:n_layers], dim=2)[0]  # the last is given after the final norm
        hidden = generation.hidden_states()
        np.testing.assert_allclose(hidden[:, :n_layers], expected, rtol=1e-4, atol=1e-4)
        given: list[torch.Tensor] = []
        handle = recorded.model.network.get_submodule(recorded.model.anatomy.blocks[-1]).register_forward_hook(
            lambda module, args, output, given=given: given.append(output if torch.is_tensor(output) else output[0])
        )
        recorded.model.network(ids)
        handle.remove()
        np.testing.assert_allclose(hidden[:, n_layers], given[0][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_predictions_are_those_of_the_models_head_at_each_layer(recorded: Recorded) -> None:
    network, n_layers = recorded.model.network, recorded.model.anatomy.n_layers
    for generation, ids in recorded.texts():
        predictions = generation.layer_predictions()
        assert predictions[["layer", "position"]].to_numpy().tolist() == [
            [layer, position] for layer in range(n_layers) for position in range(generation.n_tokens)
        ]
        states = torch.from_numpy(generation.hidden_states(range(n_layers)))
        for layer in range(n_layers):
            logits = states[:, layer]
            for name in recorded.tail.modules:
                logits = network.get_submodule(name)(logits)
            probabilities = recorded.tail.scaled(logits).double().softmax(-1).numpy()
            if layer == n_layers - 1:
                np.testing.assert_allclose(
                    probabilities, network(ids).logits[0].double().softmax(-1), rtol=1e-3, atol=1e-6
                )
            rows = predictions[predictions["layer"] == layer]
            check_predictions(rows, probabilities, ids[0].numpy(), recorded.model)


def check_predictions(rows: Any, probabilities: np.ndarray, ids: np.ndarray, model: Model) -> None:
    top, top_ids = np.stack(rows["top_probabilities"]), np.stack(rows["top_token_ids"])
    np.testing.assert_allclose(top, -np.sort(-probabilities)[:, :10], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(probabilities, top_ids.astype(int), 1), top, rtol=1e-3, atol=1e-6)
    text_of = model.text.text_of
    assert [list(texts) for texts in rows["top_tokens"]] == [[text_of(int(one)) for one in each] for each in top_ids]
    if not model.anatomy.is_causal:
        assert rows[["rank", "probability"]].isna().all(axis=None)  # nothing is masked
        return
    assert rows["rank"].notna().tolist() == rows["probability"].notna().tolist() == [True] * (len(ids) - 1) + [False]
    of_next = probabilities[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(rows["probability"][:-1], of_next, rtol=1e-3, atol=1e-6)
    for rank, each, probability in zip(rows["rank"], probabilities, of_next, strict=False):
        surely, perhaps = (int((each > probability * by).sum()) + 1 for by in (1 + 1e-3, 1 - 1e-3))
        assert surely <= rank <= perhaps


def test_after_the_last_layer_it_is_what_the_model_says(recorded: Recorded) -> None:
    if not recorded.model.anatomy.is_causal:
        assert recorded.store.sql("select count(rank) from tokens").fetchall() == [(0,)]
        return
    wrong = recorded.store.sql(
        """
        select count(*), count(*) filter (p.rank != t.rank or abs(ln(p.probability) - t.logprob) > 1e-4)
        from layer_predictions p join tokens t on p.generation_id = t.generation_id and p.position + 1 = t.position
        where layer = ?
        """,
        [recorded.model.anatomy.n_layers - 1],
    )
    n_tokens = recorded.store.generations()["n_tokens"]
    assert wrong.fetchall() == [(sum(n_tokens) - len(n_tokens), 0)]


@torch.no_grad()
@pytest.mark.parametrize("recorded", [tail for tail in TAILS if tail.config in ATTENTION], ids=str, indirect=True)
def test_a_plain_block_adds_attention_and_ffn_to_the_stream(recorded: Recorded) -> None:
    network, anatomy = recorded.model.network, recorded.model.anatomy
    generation, ids = recorded.texts()[1]
    for layer, (block, ffn) in enumerate(zip(anatomy.blocks, anatomy.ffn_outputs, strict=True)):
        given: list[torch.Tensor] = []
        attention = network.get_submodule(f"{block}.{ATTENTION[recorded.tail.config]}")
        handle = attention.register_forward_hook(
            lambda module, args, output, given=given: given.append(output[0]),
        )
        network(ids)
        handle.remove()
        of_ffn = network.get_submodule(ffn)(torch.from_numpy(generation.activations([layer])))
        before, after = generation.hidden_states([layer - 1, layer]).swapaxes(0, 1)
        expected = given[0].reshape(of_ffn.shape) + of_ffn
        np.testing.assert_allclose(after - before, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", ["LlamaConfig", "OpenAIGPTConfig"])
def test_the_raw_lens_leaves_out_the_final_norm_but_of_the_last_layer(
    config: str, model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(str(model_saver(tmp_path / "model", config, 4.0, **SIZES_OF[config])))
    for lens in ("normed", "raw"):
        options = {"record": BOTH, "precision": "float32", "max_new_tokens": 3}
        actlake.capture(tmp_path / "s", model, PROMPTS[:1], lens=lens, **options)
    store = actlake.open(tmp_path / "s")
    assert len(store.runs()) == 2
    normed, raw = store.generation(0), store.generation(1)
    frames = [each.layer_predictions().set_index(["layer", "position"]) for each in (normed, raw)]
    assert frames[0].loc[1]["rank"].equals(frames[1].loc[1]["rank"])
    ids = raw.tokens["token_id"].to_numpy()
    logits = model.network.lm_head(torch.from_numpy(raw.hidden_states([0])[:, 0]))
    probabilities = logits.detach().double().softmax(-1).numpy()
    check_predictions(frames[1].loc[0], probabilities, ids, model)
    same = np.allclose(np.stack(frames[0].loc[0]["top_probabilities"]), np.stack(frames[1].loc[0]["top_probabilities"]))
    assert same == (config == "OpenAIGPTConfig")  # it has no final norm


@pytest.fixture(scope="module")
def whole(toy_model: Model, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    path = tmp_path_factory.mktemp("stores") / "whole"
    actlake.capture(
        path, toy_model, PROMPTS, max_new_tokens=5, precision="float32", record=RECORDS, batch_size=3, index=False
    )
    return actlake.open(path)


def test_neither_the_batch_nor_its_padding_changes_what_is_recorded(
    whole: actlake.Store, toy_model: Model, tmp_path: Path
) -> None:
    options = {"max_new_tokens": 5, "precision": "float32", "record": BOTH, "batch_size": 1}
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, **options)
    for index in range(len(PROMPTS)):
        alone, together = actlake.open(tmp_path / "s").generation(index), whole.generation(index)
        np.testing.assert_allclose(alone.hidden_states(), together.hidden_states(), rtol=1e-4, atol=1e-5)
        both = [np.stack(generation.layer_predictions()["top_probabilities"]) for generation in (alone, together)]
        np.testing.assert_allclose(*both, rtol=1e-4)


def test_a_run_with_gradients_records_the_same_as_one_without(
    whole: actlake.Store, toy_model: Model, tmp_path: Path
) -> None:
    options = {"max_new_tokens": 5, "precision": "float32", "record": BOTH, "batch_size": 3}
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, **options)
    without = actlake.open(tmp_path / "s").generation(0)
    np.testing.assert_allclose(without.hidden_states(), whole.generation(0).hidden_states(), rtol=1e-5, atol=1e-6)
    ranks = [each.layer_predictions()["rank"].tolist() for each in (without, whole.generation(0))]
    np.testing.assert_array_equal(*ranks)


def test_a_capture_that_was_interrupted_goes_on_and_gives_the_same(
    whole: actlake.Store, toy_model: Model, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.n_done == 1:
            raise KeyboardInterrupt

    options = {"max_new_tokens": 5, "precision": "float32", "record": BOTH, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        actlake.capture(tmp_path / "s", toy_model, PROMPTS, on_progress=interrupt, **options)
    n_before = len(actlake.open(tmp_path / "s").generations())
    assert 0 < n_before < len(PROMPTS)
    run = actlake.capture(tmp_path / "s", toy_model, PROMPTS, **options)
    assert (run.run_id, run.n_captured) == (0, len(PROMPTS) - n_before)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    for index in range(len(PROMPTS)):
        states = [store.generation(index).hidden_states() for store in (actlake.open(tmp_path / "s"), whole)]
        np.testing.assert_allclose(*states, rtol=1e-4, atol=1e-5)


def test_only_the_layers_asked_for_are_recorded_and_the_input_with_them(
    whole: actlake.Store, toy_model: Model, tmp_path: Path
) -> None:
    options = {"max_new_tokens": 5, "precision": "float32", "record": BOTH, "batch_size": 3}
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, layers=[2, 1], **options)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    store = actlake.open(tmp_path / "s")
    generation, expected = store.generation(1), whole.generation(1).hidden_states([2, -1])
    assert (generation.layers, generation.hidden_layers) == ((), (-1, 1, 2))
    assert sorted(set(generation.layer_predictions()["layer"])) == [1, 2]
    np.testing.assert_allclose(generation.hidden_states([2, -1, 2]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownLayer, match="no layer 0; there are layers -1,1-2"):
        generation.hidden_states([0])
    with pytest.raises(UnknownLayer, match="no layer -1; there are layers 0-2"):
        actlake.capture(tmp_path / "s", toy_model, PROMPTS, layers=[-1], **options)


def test_sql_and_batches_give_a_layers_vectors(whole: actlake.Store) -> None:
    for layer in (-1, 2):
        batches = list(whole.batches("hidden_states", layer=layer))
        vectors = np.concatenate([batch.vectors for batch in batches])
        assert {layer} == {value for batch in batches for value in batch.keys["layer"].tolist()}
        rows = whole.sql(
            "select hidden_state from hidden_states where layer = ? order by generation_id, position", [layer]
        )
        np.testing.assert_array_equal(np.array([row for (row,) in rows.fetchall()], np.float32), vectors)
        expected = [whole.generation(index).hidden_states([layer])[:, 0] for index in range(len(PROMPTS))]
        np.testing.assert_array_equal(vectors, np.concatenate(expected))


def test_the_input_of_the_first_block_is_llamas_embedding(whole: actlake.Store) -> None:
    generation = whole.generation(0)
    np.testing.assert_array_equal(generation.hidden_states([-1])[:, 0], generation.embeddings())


def test_hidden_states_are_rounded_to_the_precision_of_the_run(
    whole: actlake.Store, toy_model: Model, tmp_path: Path
) -> None:
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, max_new_tokens=5, record=["hidden_states"], batch_size=3)
    for index in range(len(PROMPTS)):
        exact = whole.generation(index).hidden_states()
        recorded = actlake.open(tmp_path / "s").generation(index).hidden_states()
        np.testing.assert_array_equal(recorded, rounded(recorded, "bfloat16"))
        np.testing.assert_allclose(recorded, exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_of_a_model_in_half_precision_they_are_what_it_computes(toy_folder: Path, tmp_path: Path, dtype: Any) -> None:
    model = load_model(str(toy_folder), dtype=dtype)
    actlake.capture(tmp_path / "s", model, PROMPTS[:1], max_new_tokens=3, record=BOTH, precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    ids = torch.tensor([generation.tokens["token_id"].tolist()])
    output = model.network(ids, output_hidden_states=True)
    expected = torch.stack(output.hidden_states[:3], dim=2)[0].float().numpy()
    hidden = generation.hidden_states()
    np.testing.assert_array_equal(hidden, torch.from_numpy(hidden).to(getattr(torch, dtype)).float().numpy())
    np.testing.assert_allclose(hidden[:, :3], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    last = generation.layer_predictions().query("layer == 2")
    assert last["rank"][:-1].tolist() == generation.tokens["rank"][1:].tolist()


def test_of_a_masked_language_model_ranks_are_of_the_token_that_is_explained(
    model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(str(model_saver(tmp_path / "m", "AlbertConfig", 4.0, kind="AutoModelForMaskedLM", **SIZES)))
    prompts = [{"text": "a <mask>b<mask>", "targets": ["z", "y"]}, "x"]
    actlake.capture(tmp_path / "s", model, prompts, record=BOTH)
    generation = actlake.open(tmp_path / "s").generation(0)
    tokens, predictions = generation.tokens, generation.layer_predictions()
    for layer in range(2):
        rows = predictions[predictions["layer"] == layer].reset_index()
        assert rows["rank"].notna().tolist() == tokens["rank"].notna().tolist()
    assert rows["rank"].dropna().tolist() == tokens["rank"].dropna().tolist()
    np.testing.assert_allclose(np.log(rows["probability"].dropna()), tokens["logprob"].dropna(), rtol=1e-4)


def test_of_an_encoder_decoder_the_encoders_hidden_states_are_recorded_and_it_predicts_nothing(
    model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    sizes = {**T5_SIZES, "decoder_start_token_id": 0}
    model = load_model(str(model_saver(tmp_path / "m", "T5Config", kind="AutoModelForSeq2SeqLM", **sizes)))
    actlake.capture(tmp_path / "s", model, ["a b c", "a"], record=["hidden_states"], precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    with torch.no_grad():
        ids = torch.tensor([generation.tokens["token_id"].tolist()])
        expected = torch.stack(model.network(ids, output_hidden_states=True).hidden_states[:2], dim=2)[0]
    np.testing.assert_allclose(generation.hidden_states([-1, 0]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidOption, match="cannot give layer_predictions: it is an encoder that predicts no token"):
        actlake.capture(tmp_path / "s", model, ["a"], record=BOTH)


class TestWhatIsNotProvedIsRefused:
    @pytest.fixture
    def model(self, toy_folder: Path) -> Model:
        return load_model(str(toy_folder))

    def refusal(self, model: Model, record: list[str], path: Path, **options: Any) -> str:
        with pytest.raises(InvalidOption) as refused:
            actlake.capture(path, model, ["a"], record=record, **options)
        assert not path.exists()
        return str(refused.value)

    def test_a_block_that_does_not_take_what_the_one_before_gives(self, model: Model, tmp_path: Path) -> None:
        model.network.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
        said = self.refusal(model, ["hidden_states"], tmp_path / "s")
        assert "cannot give hidden_states: in layer 0, model.layers.0 gives something else than what enters" in said
        assert "leave hidden_states out" in said
        actlake.capture(tmp_path / "s", model, ["a"], max_new_tokens=1)  # nobody asked for them

    def test_a_block_that_gives_something_of_another_width(self, model: Model, tmp_path: Path) -> None:
        odd = replace(model, anatomy=replace(model.anatomy, d_model=15))
        assert "the first block takes no tensor of 15 values" in self.refusal(odd, ["hidden_states"], tmp_path / "s")

    def test_hidden_states_that_padding_changes(self, model: Model, tmp_path: Path) -> None:
        model.network.model.layers[2].register_forward_hook(lambda module, args, output: output + output.shape[1])
        said = self.refusal(model, ["hidden_states"], tmp_path / "s")
        assert "padding changes the hidden states of layer 2" in said

    def test_a_head_that_reads_other_layers_too(self, model: Model, tmp_path: Path) -> None:
        kept: list[torch.Tensor] = []
        model.network.model.layers[0].register_forward_hook(lambda module, args, output: kept.append(output))
        model.network.model.norm.register_forward_pre_hook(lambda module, args: (args[0] + kept.pop(),))
        said = self.refusal(model, BOTH, tmp_path / "s")
        assert "cannot give layer_predictions: what follows its last block does not make its logits" in said

    def test_a_raw_lens_where_more_than_a_norm_follows_the_blocks(
        self, model_saver: Callable[..., Path], tmp_path: Path
    ) -> None:
        model = load_model(str(model_saver(tmp_path / "m", "OlmoConfig", 4.0, **SIZES)))
        said = self.refusal(model, BOTH, tmp_path / "s", lens="raw")
        assert "lens='raw' cannot be used" in said
        assert "is not one norm with a weight; use normed" in said

    def test_a_lens_that_there_is_not(self) -> None:
        with pytest.raises(InvalidOption, match="choose one of normed, raw"):
            CaptureOptions(lens="blurred")  # type: ignore[arg-type]


def test_nothing_of_the_model_is_changed_by_a_capture(toy_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(toy_folder))
    before = {name: dict(vars(module)) for name, module in model.network.named_modules()}
    actlake.capture(tmp_path / "s", model, PROMPTS, max_new_tokens=2, record=BOTH)
    for name, module in model.network.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_budget_of_both_is_near_what_is_written(toy_model: Model, tmp_path: Path) -> None:
    prompts = ["The countries of the European Union are: 1. Austria"] * 20
    options = CaptureOptions(max_new_tokens=20, record=["layer_predictions", "hidden_states"])
    budget = byte_budget(toy_model, make_plan(toy_model, prompts_from(prompts), options), options)
    assert set(budget) == {"generations", "tokens", *BOTH}
    actlake.capture(tmp_path / "s", toy_model, prompts, max_new_tokens=20, record=BOTH)
    sizes = actlake.open(tmp_path / "s").size().set_index("table")["bytes"]
    for table in BOTH:
        assert 0.4 < sizes[table] / budget[table] < 1.6


@pytest.mark.slow
def test_the_built_in_models_last_layer_says_what_it_wrote(tmp_path: Path) -> None:
    prompts = [" 1, 2, 3,", "The countries of the European Union are:"]
    actlake.capture(tmp_path / "s", "smollm2-135m", prompts, max_new_tokens=12, record=BOTH)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    for index in range(2):
        generation = actlake.open(tmp_path / "s").generation(index)
        written = generation.tokens["token_id"][generation.n_prompt_tokens :]
        last = generation.layer_predictions().query("layer == 29")["top_token_ids"].tolist()
        assert [ids[0] for ids in last[generation.n_prompt_tokens - 1 : -1]] == written.tolist()
        assert generation.hidden_states().shape == (generation.n_tokens, 31, 576)
