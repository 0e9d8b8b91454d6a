"""Loading a model: by hub id, local folder, GGUF file, or built-in name; checked before it is used."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import file_exists, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ..errors import ActlakeError, InvalidOption, ModelNotFound, ModelRefused
from . import builtin
from .anatomy import Anatomy, check_anatomy, find_anatomy
from .quiet import quiet
from .text import TokenText

_ADVICE = f"check the name and the connection, or use a local folder, a .gguf file or {builtin.NAME}"

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Model:
    """A loaded causal language model with its tokenizer, whose anatomy was found and proved.

    `end_ids` are the tokens that end a text. Nothing else of the checkpoint's own defaults for generation is used.
    """

    name: str
    network: Any
    tokenizer: Any
    anatomy: Anatomy
    end_ids: tuple[int, ...]

    @cached_property
    def text(self) -> TokenText:
        return TokenText(self.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> str:
        return str(next(self.network.parameters()).dtype).removeprefix("torch.")

    @property
    def revision(self) -> str | None:
        return getattr(self.network.config, "_commit_hash", None)

    @property
    def context(self) -> int | None:
        """The most tokens that fit into the model, or None where its configuration names no limit."""
        config = self.network.config.get_text_config()
        for attribute in ("max_position_embeddings", "max_seq_len", "seq_length"):
            if isinstance(limit := getattr(config, attribute, None), int):
                return limit
        return None

    @property
    def pad_id(self) -> int:
        """What fills a batch; the attention mask hides it, so any token serves."""
        return self.end_ids[0] if self.end_ids else 0

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the weights: of each parameter and buffer, by name, its shape, type and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer's definition."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        definition = backend.to_str() if backend else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(definition.encode()).hexdigest()


def load_model(name: str, *, device: str = "auto", dtype: DType = "auto") -> Model:
    """The model that `name` says: `smollm2-135m`, a local folder, a .gguf file, or a Hugging Face id.

    Weights are read from safetensors or GGUF only, and no code of the model's is run. `device="auto"` takes CUDA where
    there is one; `dtype="auto"` computes in float32 on a CPU and in the checkpoint's type on an accelerator.
    Raises ModelNotFound, ModelRefused (the check of `anatomy`), or InvalidOption.
    """
    where = _device(device)
    types: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    automatic = torch.float32 if where.type == "cpu" else "auto"
    if dtype != "auto" and dtype not in types:
        raise InvalidOption("dtype", dtype, f"choose auto or one of {', '.join(types)}")
    source, more = _source(name)
    with quiet():
        try:
            network = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=types.get(dtype, automatic),
                use_safetensors=None if "gguf_file" in more else True,
                trust_remote_code=False,
                **more,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **more)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise ModelNotFound(name, _problem(error)) from error
    network.eval().requires_grad_(False).to(where)
    with quiet():
        anatomy = _proved_anatomy(network, name)
    ends = _end_ids(network.generation_config.eos_token_id, tokenizer.eos_token_id, anatomy.vocab_size)
    network.generation_config = GenerationConfig()
    return Model(name, network, tokenizer, anatomy, ends)


def _proved_anatomy(network: Any, name: str) -> Anatomy:
    try:
        anatomy = find_anatomy(network, name)
        check_anatomy(network, anatomy, name)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ActlakeError):
            raise
        raise ModelRefused(name, f"a trial run on six tokens failed ({_first_line(error)})") from error
    return anatomy


def _end_ids(configured: int | list[int] | None, of_tokenizer: int | None, vocab_size: int) -> tuple[int, ...]:
    some = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({end for end in (*some, of_tokenizer) if end is not None and 0 <= end < vocab_size}))


def _source(name: str) -> tuple[str | Path, dict[str, Any]]:
    """What transformers is to load, and its further arguments."""
    path = Path(name).expanduser()
    if name == builtin.NAME:
        return builtin.builtin_folder(), {}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFound(name, "there is no such file")
        return path.parent, {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(name, "the folder has no config.json, so it holds no model")
        return path, {}
    if path.is_absolute() or name.startswith(("./", "../", "~")) or name.count("/") > 1:
        raise ModelNotFound(name, "there is no such folder or file")
    return name, _hub_arguments(name)


def _hub_arguments(name: str) -> dict[str, Any]:
    """How to ask the hub for a model: not at all if it cannot be reached, because transformers would try for a minute."""
    cached = False
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
        on_hub = file_exists(name, "config.json")
    except HFValidationError as error:
        raise ModelNotFound(
            name, f"it is not a folder or file here, nor a model's id ({_first_line(error)})"
        ) from error
    except Exception as error:  # whatever the hub's HTTP client raises
        if cached:
            return {"local_files_only": True}
        raise ModelNotFound(
            name, f"it is not a folder or file here, and the model hub did not answer; {_ADVICE}"
        ) from error
    if not on_hub and not cached:
        raise ModelNotFound(name, f"it is not a folder or file here, and the model hub has no such model; {_ADVICE}")
    return {}


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidOption("device", device, str(error).splitlines()[0]) from error


def _problem(error: Exception) -> str:
    first_line = _first_line(error)
    if "safetensors" in first_line:
        return f"it has no safetensors weights, and actlake reads no pickled ones ({first_line})"
    return first_line


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
