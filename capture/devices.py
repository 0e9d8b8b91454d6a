"""Where a model computes, and how what it computed comes to the host."""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from ..errors import InvalidOption

BALANCED = "balanced"
"""The device that stands for all accelerators together: each gets some of the blocks."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

Arriving = Callable[[], Value]
"""Something made of values that are on their way to the host: what it gives when it is called, once and in any thread, which
waits for them."""


def device_of(name: str) -> torch.device | None:
    """The device that an option names, None for `balanced`; "auto" is CUDA where there is one. Raises InvalidOption."""
    if name == BALANCED:
        return None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidOption("device", name, f"{str(error).splitlines()[0]}; or give {BALANCED}") from error


def name_of_devices(network: nn.Module) -> str:
    """The option that puts a network where it is."""
    (device, *others) = sorted({str(parameter.device) for parameter in network.parameters()})
    return BALANCED if others else device


class HostCopies(Generic[Key]):
    """Tensors on their way to the host, as float32. An accelerator computes on meanwhile: copies go through pinned memory, on
    a stream of their own. What is on the CPU is not copied.
    """

    def __init__(self, tensors: Mapping[Key, Tensor]) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._copies = {key: self._begun(tensor.detach()) for key, tensor in tensors.items()}

    def arrays(self) -> dict[Key, Float32[np.ndarray, "..."]]:
        """The values, when all have arrived."""
        for stream in self._streams.values():
            stream.synchronize()
        return {key: copy.float().numpy() for key, copy in self._copies.items()}

    def _begun(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", torch.float32)
        if tensor.device not in self._streams:
            self._streams[tensor.device] = torch.cuda.Stream(tensor.device)
            self._streams[tensor.device].wait_stream(torch.cuda.current_stream(tensor.device))
        stream = self._streams[tensor.device]
        with torch.cuda.stream(stream):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copy.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is not given to others before
        return copy
