"""Fixtures: tiny random models that are built here, one of each shape of FFNN, and stores captured from them."""

from __future__ import annotations  # else DuckDB, held by a fixture's annotations, complains when Python ends

import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from captures import Captures, captures
from hypothesis import settings
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

settings.register_profile("actlake", deadline=None)  # machines are shared
settings.load_profile("actlake")

SHAPED = [
    f"actlake.{module}"
    for module in (
        "capture.gradients",
        "capture.lens",
        "capture.masked",
        "capture.predictions",
        "capture.real",
        "capture.replay",
        "capture.steps",
        "capture.stream",
        "queries.corpus_tokens",
        "queries.generation",
        "queries.heat_map",
        "queries.layers",
        "queries.neuron_values",
        "queries.related",
        "queries.saliency",
        "store.factorizations",
        "store.reader",
        "store.shard",
    )
]
with install_import_hook(SHAPED, "beartype.beartype"):  # shapes in their signatures are checked as the tests run
    import actlake
    import actlake.capture
    import actlake.queries
    import actlake.store

TRAINING_TEXT = (
    "The countries of the European Union are: 1. Austria 2. Belgium 3. Bulgaria. "
    "One, two, three, four. <a href='x'>the keys</a> int sum(int a, int b) { return a + b; } "
) * 4

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_layer": 3, "n_head": 2, "n_embd": 16, "n_positions": 64}),
    "llama": (
        "LlamaConfig",
        {
            "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {
            "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "num_hidden_layers": 3, "hidden_size": 16, "ffn_dim": 48, "num_attention_heads": 4,
            "word_embed_proj_dim": 16, "max_position_embeddings": 64,
        },
    ),
}  # fmt: skip


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with some merges, an end token and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template)


def save_model(
    folder: Path, config_name: str, scale: float = 8.0, *, kind: str = "AutoModelForCausalLM", **sizes: Any
) -> Path:
    """A folder with a random model of a configuration, its weights large enough that attention and neurons matter."""
    tokenizer = byte_level_tokenizer()
    if kind == "AutoModelForMaskedLM":
        tokenizer.add_special_tokens({"mask_token": "<mask>"})
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, config_name)(vocab_size=len(tokenizer), **ends, **sizes)
    torch.manual_seed(7)
    network = getattr(transformers, kind).from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, for each architecture in turn."""
    config_name, sizes = CONFIGS[request.param]
    return save_model(tmp_path_factory.mktemp("model") / request.param, config_name, **sizes)


@pytest.fixture(scope="session")
def any_model(any_folder: Path) -> actlake.capture.Model:
    return actlake.capture.load_model(str(any_folder))


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama: 3 layers, d_model 16, d_ff 40, a context of 64."""
    config_name, sizes = CONFIGS["llama"]
    return save_model(tmp_path_factory.mktemp("model") / "toy", config_name, **sizes)


@pytest.fixture(scope="session")
def command(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captures]:
    """`actlake capture` of the tiny Llama in processes that may be killed."""
    with captures(tmp_path_factory.mktemp("captures"), toy_folder) as started:
        yield started


@pytest.fixture(scope="module")
def prompts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the prompts that a module names PROMPTS."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in request.module.PROMPTS))
    return path


@pytest.fixture(scope="session")
def model_saver() -> Callable[..., Path]:
    """Saves a random model: `(folder, name of its configuration's class, scale of its weights, kind=…, **sizes)`."""
    return save_model


@pytest.fixture(scope="session")
def toy_model(toy_folder: Path) -> actlake.capture.Model:
    return actlake.capture.load_model(str(toy_folder))


TOY_PROMPTS = [
    " 1, 2, 3,",
    {"prompt": "The countries of the European Union", "kind": "list"},
    {"text": "A captured text.", "kind": "text"},
    "hé 😀 – ünï",
    "One, two,",
]


@pytest.fixture(scope="session")
def toy_prompts() -> list[Any]:
    return TOY_PROMPTS


@pytest.fixture(scope="session")
def toy_store(toy_model: actlake.capture.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything recorded of five short generations, in float32; nothing is written to it after."""
    path = tmp_path_factory.mktemp("stores") / "toy"
    actlake.capture(path, toy_model, TOY_PROMPTS, max_new_tokens=6, precision="float32", batch_size=2)
    return path


@pytest.fixture
def opened(toy_store: Path) -> actlake.Store:
    return actlake.open(toy_store)


@pytest.fixture
def jsonl(tmp_path: Path) -> Iterator[Any]:
    """Writes records to a .jsonl file and gives its path."""

    def write(*records: object) -> Path:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        return path

    return write


REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass(frozen=True)
class Request:
    """What a client asked of the server of `s3_server`, and how many bytes it got."""

    method: str
    key: str
    n_bytes: int


class S3Server:
    """moto's S3 on loopback, which as S3 does one write after another and answers nobody without credentials."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from moto.s3.models import s3_backends
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: list[Request] = []
        self.replies_to_lose: list[str] = []
        self.ignores_conditions = False
        self.is_down = False
        self._objects = s3_backends["123456789012"]["aws"]  # moto's one account
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._writes = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, data: bytes) -> None:
        """Put an object, at `bucket/key`, without asking anybody."""
        bucket, _, key = path.partition("/")
        self._objects.put_object(bucket, key, data)

    def make_bucket(self, name: str) -> None:
        self._objects.create_bucket(name, "us-east-1")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].partition("/")[2].partition("/")[2]
        if "HTTP_AUTHORIZATION" not in environ:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [] if method == "HEAD" else [REFUSED]
        if self.is_down:
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return []
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with nullcontext() if method in ("GET", "HEAD") else self._writes:
            answer = b"".join(self._moto(environ, start_response))
        self.requests.append(Request(method, key, len(answer)))
        if method in self.replies_to_lose:
            self.replies_to_lose.remove(method)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [answer]


@pytest.fixture(scope="session")
def s3_session() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3_server(s3_session: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """An S3 server that the environment names, with credentials that it takes."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "AWS_ENDPOINT_URL": s3_session.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3_session.requests.clear()
    s3_session.replies_to_lose.clear()
    s3_session.ignores_conditions = False
    return s3_session


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The URI of an empty bucket on the S3 server."""
    name = f"bucket-{uuid.uuid4().hex}"
    s3_server.make_bucket(name)
    return f"s3://{name}"
