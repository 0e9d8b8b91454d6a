"""At which positions of a generation what is large is recorded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32


@dataclass(frozen=True)
class Positions:
    """The positions that `every` divides (0, N, 2N, …), of written tokens alone if `only_generated`.

    >>> Positions(every=2, only_generated=True).of(3, 9).tolist()
    [4, 6, 8]
    """

    every: int = 1
    only_generated: bool = False

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> "Positions":
        """Those of a row of `runs`."""
        config = json.loads(run["generation_config"])
        return cls(config.get("every", 1), config.get("only_generated", False))

    @property
    def config(self) -> dict[str, Any]:
        """What `generation_config` says of them: nothing, where they are all positions."""
        every = {"every": self.every} if self.every > 1 else {}
        return every | ({"only_generated": True} if self.only_generated else {})

    @property
    def are_all(self) -> bool:
        return not self.config

    def of(self, n_prompt_tokens: int, n_tokens: int) -> Int32[np.ndarray, "_"]:
        """The positions of a generation of `n_tokens` tokens, ascending."""
        positions = np.arange(0, n_tokens, self.every, dtype=np.int32)
        return positions[positions >= n_prompt_tokens] if self.only_generated else positions

    def count(self, n_prompt_tokens: int, n_tokens: int) -> int:
        """How many they are."""
        before = -(-n_prompt_tokens // self.every) if self.only_generated else 0
        return max(0, -(-n_tokens // self.every) - before)
