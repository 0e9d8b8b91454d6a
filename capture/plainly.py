"""Off while a model computes: modes of torch that whoever calls actlake may have switched on around it.

Autocast computes in half precision what a run calls float32; in inference mode and under `torch.no_grad()` there is no
gradient. All are of a thread.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plainly() -> Iterator[None]:
    """Within it, or in a function that it decorates, models compute in the type that they have, and gradients can be had."""
    accelerator = torch.accelerator.current_accelerator()
    types = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as off:
        for device_type in types:
            if torch.is_autocast_enabled(device_type):
                off.enter_context(torch.autocast(device_type, enabled=False))
        yield
