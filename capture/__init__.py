"""How activations get into a store: load and check a model, generate, replay, write. The only part that imports torch."""

import sys
from types import ModuleType

from .faults import Skipped
from .models import Model, load_model
from .options import CaptureOptions
from .plan import Plan, byte_budget, make_plan
from .prompts import Prompt, prompts_from, read_prompts
from .run import Run, capture, capture_plan, refusal
from .units import Progress

__all__ = [
    "CaptureOptions",
    "Model",
    "Plan",
    "Progress",
    "Prompt",
    "Run",
    "Skipped",
    "byte_budget",
    "capture",
    "capture_plan",
    "load_model",
    "make_plan",
    "prompts_from",
    "read_prompts",
    "refusal",
]


class _Capture(ModuleType):
    """`actlake.capture` is this package and the function of that name: importing a package makes it an attribute of its
    parent, in place of what stood there, so the package itself answers the call."""

    __call__ = staticmethod(capture)


sys.modules[__name__].__class__ = _Capture
