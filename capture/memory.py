"""How much memory is free, how large a batch may be held in it, and how many positions' gradients."""

from pathlib import Path

import torch

from .models import Model

MOST_IN_BATCH = {"cpu": (4096, 64)}
MOST_IN_BATCH_ELSEWHERE = (32768, 256)
"""More tokens or texts in a batch gain little on a CPU (decision 010); on other devices it was not measured."""

MOST_EXPLAINED = {"cpu": (512, 32)}
MOST_EXPLAINED_ELSEWHERE = (16384, 256)
"""The same with gradients. One product goes over all of a batch, so its tokens are at most the positions that go at once."""

MOST = {"cpu": 2048}
MOST_ELSEWHERE = 16384
"""More positions at once gain nothing on a CPU (decision 009); on other devices it was not measured."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def batch_limits(model: Model, n_layers: int, longest: int, per_gradient: int = 0) -> tuple[int, int]:
    """The most tokens and texts of a batch: what fits into half of what is free, up to what gains.

    A token takes the activations of `n_layers` three times over (in hand, in the writer's, encoded), its
    logits, as the model gives them and in float32, and keys and values. With gradients, of which `per_gradient` values are kept
    (0: there are none) and which have as many inputs as the `longest` text has tokens at most: also the graph, what a product
    takes, the gradients (in hand, in the writer's, encoded), and its logits twice more. The tokens are a power of two.
    """
    anatomy = model.anatomy
    per_token = 4 * (3 * n_layers * anatomy.d_ff + 2 * anatomy.vocab_size + 2 * anatomy.n_layers * anatomy.d_model)
    most, texts = MOST_IN_BATCH.get(model.device.type, MOST_IN_BATCH_ELSEWHERE)
    if per_gradient:
        per_token += (anatomy.n_layers + 1) * _per_block(model, longest)
        per_token += 4 * (3 * longest * per_gradient + 2 * anatomy.vocab_size)
        most, texts = MOST_EXPLAINED.get(model.device.type, MOST_EXPLAINED_ELSEWHERE)
    return _fitting(model, per_token, most), texts


def gradient_tokens(model: Model, width: int) -> int:
    """Positions, of texts of `width`, whose gradients fit into half of what is free: a power of two, at most what gains."""
    return _fitting(model, _per_block(model, width), MOST.get(model.device.type, MOST_ELSEWHERE))


def _per_block(model: Model, width: int) -> int:
    """About how many bytes a position of a text takes in a block's intermediate values, going forward or backward (60 kB were
    seen where this says 61)."""
    heads = getattr(model.network.config.get_text_config(), "num_attention_heads", 0)
    return 4 * (7 * model.anatomy.d_ff + 8 * model.anatomy.d_model + 3 * heads * width)


def _fitting(model: Model, bytes_each: int, most: int) -> int:
    """How many fit into half of what is free, at most so many: a power of two."""
    known = [free for free in map(free_bytes, {model.device, torch.device("cpu")}) if free is not None]
    free = min(known, default=None)
    fitting = most if free is None else min(most, free // 2 // bytes_each)
    return 1 << max(0, fitting.bit_length() - 1)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had, of a CUDA device, or on Linux of this machine within its control group; else None."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    free = [value for value in (_available(), _left_of_group()) if value is not None]
    return min(free, default=None)


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _left_of_group() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
