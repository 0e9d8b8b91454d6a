"""Loading a model: by hub id, local folder, GGUF file, or built-in name; checked before it is used."""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import file_exists, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    AutoTokenizer,
    GenerationConfig,
)

from ..errors import ActlakeError, InvalidOption, ModelNotFound, ModelRefused
from ..store import CapturedPredictions
from . import builtin
from .anatomy import Anatomy, check_pattern, find_anatomy
from .devices import BALANCED, device_of
from .plainly import plainly
from .proof import check_anatomy
from .quiet import quiet
from .stream import Lens
from .stretches import last_of_stretches
from .text import TokenText

_ADVICE = f"check the name and the connection, or use a local folder, a .gguf file or {builtin.NAME}"

_UNKNOWN_KIND = re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>")

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Model:
    """A loaded language model with its tokenizer, whose anatomy was found and proved; of an encoder–decoder, the encoder.

    `end_ids` are the tokens that end a text. Nothing else of the checkpoint's own defaults for generation is used.
    `ffn` is the pattern that named the FFNNs' output projections by hand, None where they were found.
    """

    name: str
    network: Any
    tokenizer: Any
    anatomy: Anatomy
    end_ids: tuple[int, ...]
    ffn: str | None = None

    @cached_property
    def text(self) -> TokenText:
        return TokenText(self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where its input goes: the embedding's device, of several."""
        return next(self.network.get_submodule(self.anatomy.embedding).parameters()).device

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
                return limit - self._unused_positions(limit)
        return None

    @cached_property
    def last_of_stretches(self) -> tuple[int, ...]:
        """See `stretches.last_of_stretches`."""
        return last_of_stretches(self.network)

    @property
    def mask_id(self) -> int | None:
        """The token at whose positions a masked language model predicts, None for any other model."""
        predicts = not self.anatomy.is_causal and self.anatomy.unembedding is not None
        return self.tokenizer.mask_token_id if predicts else None

    @property
    def pad_id(self) -> int:
        """What fills a batch; the attention mask hides it, so any token serves."""
        return self.end_ids[0] if self.end_ids else 0

    def _unused_positions(self, limit: int) -> int:
        """How many rows of the position embedding no token can have: RoBERTa counts from after the padding's row."""
        tables = [module for module in self.network.modules() if isinstance(module, torch.nn.Embedding)]
        paddings = [t.padding_idx for t in tables if t.num_embeddings == limit and t.padding_idx is not None]
        return paddings[0] + 1 if paddings and limit != self.anatomy.vocab_size else 0

    @property
    def is_causal(self) -> bool:
        return self.anatomy.is_causal

    def plainly(self) -> AbstractContextManager[None]:
        """See `plainly.plainly`."""
        return plainly()

    def lens_predictions(
        self, layer: int, hidden: np.ndarray, targets: Sequence[int], lens: Lens = "normed"
    ) -> CapturedPredictions:
        """See `asked.lens_predictions`."""
        from .asked import lens_predictions  # here, because it knows models

        return lens_predictions(self, layer, hidden, targets, lens)

    def lens_ranks(
        self, layer: int, hidden: np.ndarray, token_ids: Sequence[int], lens: Lens = "normed"
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `asked.lens_ranks`."""
        from .asked import lens_ranks

        return lens_ranks(self, layer, hidden, token_ids, lens)

    def token_ids_of(self, tokens: Sequence[str | int]) -> list[int]:
        """See `asked.token_ids_of`."""
        from .asked import token_ids_of

        return token_ids_of(self, tokens)

    def embedded(self, token_ids: Sequence[int]) -> torch.Tensor:
        """See `asked.embedded`."""
        from .asked import embedded

        return embedded(self, token_ids)

    def logits_of(self, token_ids: Sequence[int], embeddings: torch.Tensor) -> torch.Tensor:
        """See `asked.logits_of`."""
        from .asked import logits_of

        return logits_of(self, token_ids, embeddings)

    @cached_property
    def logits_are_unembedded(self) -> bool:
        """See `head.logits_are_unembedded`."""
        from .head import logits_are_unembedded

        return logits_are_unembedded(self)

    @cached_property
    def ffns_pack(self) -> bool:
        """See `packed.ffns_pack`."""
        from .packed import ffns_pack

        return ffns_pack(self)

    @cached_property
    def steps_agree(self) -> bool:
        """See `steps.steps_agree`; proved once, since whoever asks a model often makes a run each time."""
        from .steps import steps_agree

        return steps_agree(self)

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


@plainly()
def load_model(name: str, *, device: str = "auto", dtype: DType = "auto", ffn: str | None = None) -> Model:
    """The model that `name` says: `smollm2-135m`, a local folder, a .gguf file, or a Hugging Face id.

    Weights are read from safetensors or GGUF only, and no code of the model's is run. `device="auto"` takes CUDA where
    there is one, `"balanced"` all of them together, each with some of the blocks (Accelerate's device map). `dtype="auto"`
    computes in float32 on a CPU and in the checkpoint's type on an accelerator. `ffn` names the output projections of the
    FFNNs by hand, as `model.layers.{i}.mlp.down_proj`; they are proved all the same.
    Raises ModelNotFound, ModelRefused (the check of `proof`), or InvalidOption.
    """
    where = device_of(device)
    types: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    automatic = torch.float32 if where == torch.device("cpu") or not torch.accelerator.is_available() else "auto"
    if dtype != "auto" and dtype not in types:
        raise InvalidOption("dtype", dtype, f"choose auto or one of {', '.join(types)}")
    if ffn is not None:
        check_pattern(ffn)
    source, more = _source(name)
    with quiet():
        try:
            network, is_causal = _network(name, source, types.get(dtype, automatic), where, more)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **more)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            if isinstance(error, ActlakeError):
                raise
            raise ModelNotFound(name, _problem(error)) from error
    network.eval().requires_grad_(False)
    if where is not None:
        network.to(where)
    elif any(parameter.is_meta for parameter in network.parameters()):
        raise ModelRefused(name, "the devices together have no room for it (device=balanced)")
    with quiet():
        anatomy = _proved_anatomy(network, name, ffn, is_causal)
    if not is_causal:
        return Model(name, network, tokenizer, anatomy, end_ids=(), ffn=ffn)
    ends = _end_ids(network.generation_config.eos_token_id, tokenizer.eos_token_id, anatomy.vocab_size)
    network.generation_config = GenerationConfig()
    return Model(name, network, tokenizer, anatomy, ends, ffn)


def _network(
    name: str, source: str | Path, dtype: Any, where: torch.device | None, more: dict[str, Any]
) -> tuple[Any, bool]:
    """The network that is recorded, and whether it is causal: a decoder, a masked language model, an encoder whose
    checkpoint has no head for that, or the encoder of an encoder–decoder, whose checkpoint may have no more than it."""
    from_gguf = "gguf_file" in more
    config = None if from_gguf else AutoConfig.from_pretrained(source, trust_remote_code=False, **more)
    kind: Any = AutoModelForCausalLM
    if _is_half(config):
        kind = AutoModelForTextEncoding
    elif getattr(config, "is_encoder_decoder", False):
        kind = AutoModel
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        kind = AutoModelForMaskedLM
    network, info = kind.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=None if from_gguf else True,
        trust_remote_code=False,
        output_loading_info=True,
        device_map=BALANCED if where is None else None,
        **more,
    )
    missing = sorted(info["missing_keys"])
    if kind in (AutoModel, AutoModelForTextEncoding):
        network = network.get_encoder()
    elif kind is AutoModelForMaskedLM and missing:
        inside = f"{network.base_model_prefix}."
        network, missing = network.base_model, [key for key in missing if key.startswith(inside)]
    if missing:
        some = f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        raise ModelRefused(name, f"its checkpoint lacks {len(missing)} of its weights, which would be random: {some}")
    return network, kind is AutoModelForCausalLM


def _is_half(config: Any) -> bool:
    """Whether a checkpoint of a kind that has an encoder and a decoder has the encoder alone, as T5EncoderModel writes it."""
    kind = type(config)
    if kind not in MODEL_FOR_TEXT_ENCODING_MAPPING or kind not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return False
    encoder: Any = MODEL_FOR_TEXT_ENCODING_MAPPING[kind]
    return not config.is_encoder_decoder or encoder.__name__ in (config.architectures or ())


def _proved_anatomy(network: Any, name: str, ffn: str | None, is_causal: bool) -> Anatomy:
    try:
        anatomy = find_anatomy(network, name, ffn=ffn, is_causal=is_causal)
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


def _problem(error: Exception) -> str:
    first_line = _first_line(error)
    if "safetensors" in first_line:
        return f"it has no safetensors weights, and actlake reads no pickled ones ({first_line})"
    if unknown := _UNKNOWN_KIND.search(first_line):
        return f"it is no language model: transformers has no decoder, masked language model or text encoder for {unknown[1]}"
    return first_line


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
