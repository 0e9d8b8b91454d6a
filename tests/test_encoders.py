"""Models that read all positions at once: what is recorded is what a plain run over one text alone gives."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.capture.models import DType
from actlake.errors import InvalidOption, InvalidPrompt, ModelNotFound, ModelRefused, PromptTooLong
from actlake.queries.saliency import METHODS
from actlake.store import Commit, GradientTarget, Location, Log, verify
from families import ENCODER_DECODERS, MASKED, SIZES, T5_SIZES, Family
from safetensors.torch import load_file, save_file
from transformers import BertTokenizerFast, T5EncoderModel

TEXTS = ["One, <mask>, three,<mask> four.", "a <mask>", "The countries of the European Union", {"text": "<mask>b"}]
NO_GRADIENTS = ["embeddings", "activations"]


@pytest.fixture(scope="module", params=MASKED, ids=str)
def masked(
    request: pytest.FixtureRequest, model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Path]:
    kind: Family = request.param
    folder = tmp_path_factory.mktemp(kind.config)
    saved = model_saver(folder / "model", kind.config, 4.0, kind="AutoModelForMaskedLM", **kind.all_sizes)
    model = load_model(str(saved))
    assert (model.network.config.model_type, model.anatomy.ffn) == (kind.model_type, kind.ffn)
    actlake.capture(folder / "store", model, TEXTS, precision="float32", batch_size=4)
    return model, folder / "store"


@pytest.fixture(scope="module", params=ENCODER_DECODERS, ids=str)
def encoder(
    request: pytest.FixtureRequest, model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Path]:
    kind: Family = request.param
    folder = tmp_path_factory.mktemp(kind.config)
    sizes = {"decoder_start_token_id": 0, **kind.sizes}
    model = load_model(str(model_saver(folder / "model", kind.config, 4.0, kind="AutoModelForSeq2SeqLM", **sizes)))
    assert (model.network.config.model_type, model.anatomy.ffn) == (kind.model_type, kind.ffn)
    actlake.capture(folder / "store", model, TEXTS, precision="float32", batch_size=4, record=NO_GRADIENTS)
    return model, folder / "store"


@pytest.fixture(scope="module")
def bert_folder(model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "model"
    return model_saver(folder, "BertConfig", 4.0, kind="AutoModelForMaskedLM", max_position_embeddings=32, **SIZES)


@pytest.fixture(scope="module")
def bert(bert_folder: Path) -> Model:
    return load_model(str(bert_folder))


class Reads:
    """A plain run of one text alone: what the embedding gave (a leaf), what each FFNN's projection was given, the output."""

    def __init__(self, model: Model, token_ids: list[int]) -> None:
        anatomy, network = model.anatomy, model.network
        self.inputs: list[torch.Tensor] = []

        def leaf(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            self.embedding = output.detach().requires_grad_()
            return self.embedding.clone()

        def given(module: object, args: tuple[torch.Tensor, ...]) -> None:
            self.inputs.append(args[0].detach().clone())

        handles = [network.get_submodule(anatomy.embedding).register_forward_hook(leaf)]
        for name in dict.fromkeys(anatomy.ffn_outputs):
            handles.append(network.get_submodule(name).register_forward_pre_hook(given))
        self.output = network(torch.tensor([token_ids]))
        for handle in handles:
            handle.remove()


def check_what_was_read(model: Model, store: actlake.Store) -> None:
    for index in range(len(TEXTS)):
        generation = store.generation(index)
        plain = Reads(model, generation.tokens["token_id"].tolist())
        np.testing.assert_allclose(generation.embeddings(), plain.embedding.detach()[0], rtol=1e-5, atol=1e-6)
        assert len(plain.inputs) == model.anatomy.n_layers == 2
        for layer, expected in enumerate(plain.inputs):
            a = generation.activations([layer])
            np.testing.assert_allclose(a, expected.view(len(a), -1), rtol=1e-4, atol=1e-5)


def test_embeddings_and_activations_are_those_of_a_text_alone(masked: tuple[Model, Path]) -> None:
    check_what_was_read(masked[0], actlake.open(masked[1]))


@pytest.mark.parametrize("says_both", [False, True], ids=["as transformers writes it", "as sentence-t5 says it"])
def test_a_checkpoint_of_the_encoder_alone_is_recorded_as_the_whole_models_encoder(
    model_saver: Callable[..., Path], tmp_path: Path, says_both: bool
) -> None:
    saved = model_saver(tmp_path / "whole", "T5Config", 4.0, kind="AutoModelForSeq2SeqLM", **T5_SIZES)
    whole = load_model(str(saved))
    half = shutil.copytree(saved, tmp_path / "half")
    (half / "model.safetensors").unlink()
    T5EncoderModel.from_pretrained(saved).save_pretrained(half)
    config = json.loads((half / "config.json").read_text())
    assert (config["is_encoder_decoder"], config["architectures"]) == (False, ["T5EncoderModel"])
    (half / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": says_both}))
    model = load_model(str(half))
    assert (model.hash, model.anatomy, model.is_causal) == (whole.hash, whole.anatomy, False)
    for name, each in (("one", model), ("other", whole)):
        actlake.capture(tmp_path / name, each, TEXTS, precision="float32", record=NO_GRADIENTS)
    one, other = (actlake.open(tmp_path / name) for name in ("one", "other"))
    for table in ("embeddings", "activation_vectors"):
        assert one.sql(f"from {table} order by all").fetchall() == other.sql(f"from {table} order by all").fetchall()


def test_an_encoder_alone_that_lacks_a_weight_is_refused(model_saver: Callable[..., Path], tmp_path: Path) -> None:
    saved = model_saver(tmp_path / "whole", "T5Config", 4.0, kind="AutoModelForSeq2SeqLM", **T5_SIZES)
    T5EncoderModel.from_pretrained(saved).save_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    del weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match="lacks 1 of its weights"):
        load_model(str(saved))


def test_a_model_of_something_else_than_text_is_one_line_that_says_so(toy_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_folder, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(ModelNotFound, match=r"no language model: .* text encoder for ViTConfig") as raised:
        load_model(str(folder))
    assert "\n" not in str(raised.value)


def test_embeddings_and_activations_of_an_encoder_decoder_are_those_of_its_encoder(
    encoder: tuple[Model, Path],
) -> None:
    check_what_was_read(encoder[0], actlake.open(encoder[1]))
    assert verify(Location.of(encoder[1]), deep=True).ok


def test_gradients_are_those_of_the_likeliest_token_at_each_mask(masked: tuple[Model, Path]) -> None:
    model, store = masked[0], actlake.open(masked[1])
    for index, n_masks in enumerate((2, 1, 0, 1)):
        generation = store.generation(index)
        ids = generation.tokens["token_id"].tolist()
        masks = [position for position, token_id in enumerate(ids) if token_id == model.mask_id]
        assert len(masks) == n_masks
        assert generation.gradients().shape == (
            (n_masks * len(ids), generation.embeddings().shape[1]) if n_masks else (0, 0)
        )
        assert generation.tokens["rank"].notna().tolist() == [position in masks for position in range(len(ids))]
        for position in masks:
            plain = Reads(model, ids)
            logits = plain.output.logits[0, position]
            logits.max().backward()
            expected = plain.embedding.grad[0].numpy()
            assert np.abs(generation.gradients(position) - expected).max() <= 2e-5 * np.abs(expected).max()
            assert generation.tokens["rank"][position] == 1
            likeliest = logits.log_softmax(-1).max().item()
            assert generation.tokens["logprob"][position] == pytest.approx(likeliest, abs=1e-5)


def test_a_store_of_masked_texts_is_whole_and_sums_to_one(masked: tuple[Model, Path]) -> None:
    store = actlake.open(masked[1])
    assert verify(Location.of(masked[1]), deep=True).ok
    generation = store.generation(0)
    shares = generation.saliency()
    assert shares.shape == (2, generation.n_tokens)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    rows = store.sql("select share from saliency where generation_id = 0 order by output_position, input_position")
    np.testing.assert_allclose(rows.fetchnumpy()["share"], np.asarray(shares).ravel(), atol=1e-6)


def test_a_target_is_explained_in_place_of_the_likeliest_token(bert: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", bert, [{"text": "a <mask>", "targets": ["z"]}], precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    ids = generation.tokens["token_id"].tolist()
    position, (target,) = ids.index(bert.mask_id), bert.tokenizer("z")["input_ids"]
    plain = Reads(bert, ids)
    plain.output.logits[0, position, target].backward()
    np.testing.assert_allclose(generation.gradients(position), plain.embedding.grad[0], rtol=1e-4, atol=1e-5)
    assert (generation.completion, generation.metadata) == ("z", {"targets": ["z"]})
    assert generation.tokens["rank"][position] > 1


def test_nothing_is_written_and_the_text_says_what_was_read(bert: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", bert, ["a <mask>", {"text": "a"}], max_new_tokens=5)
    store = actlake.open(tmp_path / "s")
    first, second = store.generation(0), store.generation(1)
    assert (first.n_tokens, first.n_prompt_tokens, first.prompt) == (
        len(bert.tokenizer("a <mask>")["input_ids"]),
    ) * 2 + ("a <mask>",)
    assert first.tokens["token"].tolist()[-1] == "<mask>"
    assert (second.completion, len(second.gradients()), second.saliency().shape) == ("", 0, (0, 0))


def test_a_batch_gives_what_each_text_alone_gives(bert: Model, tmp_path: Path) -> None:
    texts = ["a <mask>", "One, two, <mask>, four <mask>", "b"]
    for size in (1, 3):
        actlake.capture(tmp_path / str(size), bert, texts, precision="float32", batch_size=size)
    for index in range(3):
        one, three = (actlake.open(tmp_path / str(size)).generation(index) for size in (1, 3))
        np.testing.assert_allclose(one.activations(), three.activations(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.gradients(), three.gradients(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["z", "y"], "not a list of 1 texts, one for each mask"),
        ("z", "not a list of 1 texts"),
        (["The countries"], "the target 'The countries' is 4 tokens, and a mask stands for one"),
        ([""], "the target '' is 0 tokens"),
    ],
)
def test_a_target_that_cannot_stand_at_a_mask_names_its_line(
    bert: Model, tmp_path: Path, targets: Any, message: str
) -> None:
    with pytest.raises(InvalidPrompt, match=f"prompt 1: .*{message}"):
        actlake.capture(tmp_path / "s", bert, [{"text": "a <mask>", "targets": targets}])


def test_a_wrong_position_says_which_there_are(bert: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", bert, ["<mask> a <mask>"])
    generation = actlake.open(tmp_path / "s").generation(0)
    with pytest.raises(InvalidOption, match=f"choose from 0,{generation.n_tokens - 1}"):
        generation.gradients(1)


def test_a_masked_text_without_its_gradients_is_found(bert: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", bert, ["a <mask>"], index=False)
    log = Log(Location.of(tmp_path / "s"))
    log.commit(lambda s: Commit("lose", "lose", remove=[s.of("gradients")[0].path]))
    n = actlake.open(tmp_path / "s").generation(0).n_tokens
    assert verify(Location.of(tmp_path / "s")).problems == (f"generation 0 has 0 rows of gradients, not {n}",)


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_an_encoder_without_the_head_of_a_masked_model_has_embeddings_and_activations(
    kind: str, bert_folder: Path, bert: Model, tmp_path: Path
) -> None:
    import transformers

    folder = shutil.copytree(bert_folder, tmp_path / "model")
    headless = getattr(transformers, kind)(bert.network.config)
    getattr(headless, "bert", headless).load_state_dict(bert.network.bert.state_dict(), strict=False)
    headless.save_pretrained(folder)
    model = load_model(str(folder))
    with pytest.raises(InvalidOption, match=r"is an encoder that predicts no token, so there are no gradients"):
        actlake.capture(tmp_path / "s", model, ["a"])
    for name, one in (("s", model), ("t", bert)):
        actlake.capture(tmp_path / name, one, ["a b"], record=NO_GRADIENTS, precision="float32")
    a, b = (actlake.open(tmp_path / name).generation(0) for name in "st")
    np.testing.assert_array_equal(a.activations(), b.activations())
    assert a.tokens["logprob"].isna().all()


def test_chat_is_not_for_an_encoder(bert: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="is an encoder, which answers nothing"):
        actlake.capture(tmp_path / "s", bert, ["a"], chat=True)


@pytest.mark.parametrize(("config", "context"), [("BertConfig", 32), ("RobertaConfig", 31)])
def test_a_text_as_long_as_the_context_is_captured_and_a_longer_one_is_not(
    config: str, context: int, model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    sizes = {**SIZES, "max_position_embeddings": 32}
    model = load_model(str(model_saver(tmp_path / "m", config, kind="AutoModelForMaskedLM", **sizes)))
    assert model.context == context, "RoBERTa counts positions from after the padding's"
    actlake.capture(tmp_path / "s", model, ["x" * context])
    with pytest.raises(PromptTooLong, match=f"the text has {context + 1} tokens .* shorten it to {context} tokens"):
        actlake.capture(tmp_path / "s", model, ["x" * (context + 1)])


def test_the_tokens_of_a_wordpiece_tokenizer_are_found_in_the_text(bert_folder: Path, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "of", "fr", "##ance", "is", "."]
    folder = shutil.copytree(bert_folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    text = "The capital of France is [MASK]."
    actlake.capture(tmp_path / "s", str(folder), [{"text": text, "targets": ["of"]}])
    generation = actlake.open(tmp_path / "s").generation(0)
    tokens = generation.tokens
    assert tokens["token"].tolist() == ["[CLS]", *words[5:11], "[MASK]", ".", "[SEP]"]
    spans = [text[start:end] for start, end in zip(tokens["char_start"], tokens["char_end"], strict=True)]
    assert spans == ["", "The", "capital", "of", "Fr", "ance", "is", "[MASK]", ".", ""]
    assert (generation.completion, list(tokens["rank"].dropna().index)) == ("of", [7])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_a_masked_model_in_half_precision_are_computed_in_float32(
    bert_folder: Path, bert: Model, tmp_path: Path, dtype: str
) -> None:
    half = load_model(str(bert_folder), dtype=dtype)
    rounded = copy.deepcopy(half.network).float()  # the same weights, rounded, in float32
    actlake.capture(tmp_path / "half", half, TEXTS[:2], precision="float32", index=False)
    actlake.capture(tmp_path / "wide", replace(bert, network=rounded), TEXTS[:2], precision="float32", index=False)
    for generation_id in (0, 1):
        ours, wide = (actlake.open(tmp_path / name).generation(generation_id) for name in ("half", "wide"))
        assert ours.completion == wide.completion  # the same token is explained
        np.testing.assert_allclose(ours.gradients(), wide.gradients(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["logprob", "contrast"])
def test_gradients_of_other_targets_at_masks_are_those_of_autograd(
    bert_folder: Path, bert: Model, tmp_path: Path, target: GradientTarget, dtype: DType
) -> None:
    model = load_model(str(bert_folder), dtype=dtype)
    texts = [*TEXTS, {"text": "b <mask>, <mask>", "targets": ["z", "y"]}]
    options = {"gradient_target": target, "precision": "float32", "batch_size": 5}
    actlake.capture(tmp_path / "s", model, texts, gradient_tokens=40, **options)
    in_float32 = replace(bert, network=copy.deepcopy(model.network).float())
    store = actlake.open(tmp_path / "s")
    assert store.runs()["gradient_target"].tolist() == [target]
    explained = 0
    for generation in (store.generation(index) for index in range(len(texts))):
        ids = generation.tokens["token_id"].tolist()
        masks = [position for position, token_id in enumerate(ids) if token_id == model.mask_id]
        supplied = [model.tokenizer(text)["input_ids"][0] for text in generation.metadata.get("targets", [])]
        for number, position in enumerate(masks):
            plain = Reads(in_float32, ids)
            logits = plain.output.logits[0, position]
            token_id = (
                supplied[number] if supplied else int(model.network(torch.tensor([ids])).logits[0, position].argmax())
            )
            others = torch.cat([logits[:token_id], logits[token_id + 1 :]])
            of_target = {"logprob": logits.log_softmax(-1)[token_id], "contrast": logits[token_id] - others.max()}
            of_target[target].backward()
            expected = plain.embedding.grad[0].numpy()
            assert generation.gradients(position).shape == expected.shape
            assert np.abs(generation.gradients(position) - expected).max() <= 1e-4 * np.abs(expected).max()
            explained += 1
    assert explained == 6


@pytest.mark.parametrize("gradient_tokens", [1, 64, 100_000])
def test_many_masks_have_the_same_gradients_however_many_go_at_once(
    bert: Model, tmp_path: Path, gradient_tokens: int
) -> None:
    texts = ["<mask>" * 20, "a<mask>b<mask><mask>", "c"]
    actlake.capture(tmp_path / "s", bert, texts, precision="float32", gradient_tokens=gradient_tokens, batch_size=3)
    for generation_id, n_masks in enumerate((20, 3, 0)):
        generation = actlake.open(tmp_path / "s").generation(generation_id)
        ids = generation.tokens["token_id"].tolist()
        masks = [position for position, token_id in enumerate(ids) if token_id == bert.mask_id]
        assert len(masks) == n_masks
        for position in masks:
            plain = Reads(bert, ids)
            plain.output.logits[0, position].max().backward()
            expected = plain.embedding.grad[0].numpy()
            assert np.abs(generation.gradients(position) - expected).max() <= 2e-5 * np.abs(expected).max()


def test_saliency_of_masked_texts_from_scores_is_that_from_gradients(bert: Model, tmp_path: Path) -> None:
    stores = []
    for gradients in ("vectors", "scores"):
        actlake.capture(tmp_path / gradients, bert, TEXTS, precision="float32", gradients=gradients)
        stores.append(actlake.open(tmp_path / gradients))
        assert verify(Location.of(tmp_path / gradients), deep=True).ok
    vectors, scores = stores
    for index, method in product(range(len(TEXTS)), METHODS):
        expected = np.asarray(vectors.generation(index).saliency(method))
        np.testing.assert_allclose(
            np.asarray(scores.generation(index).saliency(method)), expected, rtol=1e-4, atol=1e-6
        )
    n_pairs = [
        kind.sql(f"select count(*) from {table}").fetchall()
        for kind, table in ((vectors, "gradients"), (scores, "gradient_scores"))
    ]
    assert n_pairs[0] == n_pairs[1] == [(2 * 14 + 3 + 2,)]
