"""Factors in words: what can be asked of them, and how those that are shown were made."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import InvalidOption, number_ranges
from ..queries import FactorMethod, FactorOptions, Factors, Negatives

FACTOR_METHOD_NAMES: dict[FactorMethod, str] = {"nmf": "NMF", "pca": "PCA", "ica": "ICA", "kmeans": "k-means"}
POSITION_NAMES = {"all": "all", "prompt": "the prompt's", "generated": "generated ones"}
NEGATIVE_NAMES = {"auto": "automatic", "clip": "clipped to 0", "split": "split off", "keep": "kept"}
SOLVER_NAMES = {"hals": "actlake's HALS", "sklearn": "scikit-learn"}
SCALE_NAMES = {False: "none", True: "layers count alike"}
UNKNOWN = "unknown (it was not kept then)"


def accepted(method: FactorMethod, negatives: Negatives, reruns: int) -> dict[str, Any]:
    """These options as the method takes them: what it refuses is at its default.

    >>> accepted("pca", "split", 4)
    {'negatives': 'auto', 'reruns': 0}
    """
    asked: dict[str, Any] = {"negatives": negatives, "reruns": reruns}
    defaults = {"negatives": "auto", "reruns": 0}
    for _ in defaults:  # one of them is refused at a time
        try:
            FactorOptions(1, method, **asked)
        except InvalidOption as error:
            asked[error.args[0]] = defaults[error.args[0]]
    return asked


def facts_of_drawn(factors: Factors, negatives: Negatives) -> dict[str, str]:
    """How the factors of a generation were made; `negatives` is what was asked for."""
    became = NEGATIVE_NAMES[factors.negatives]
    return {
        "method": FACTOR_METHOD_NAMES[factors.method],
        "of": ", ".join(
            [named_ranges("layer", number_ranges(factors.layers)), _tokens(factors.positions, len(factors.tokens))]
        ),
        "negative values": f"{became} (chosen automatically)" if negatives == "auto" else became,
        "scaling": SCALE_NAMES[factors.scale_layers],
        "iterations": _iterations(factors.n_iterations, factors.converged),
    }


def facts_of_saved(row: Mapping[str, Any]) -> dict[str, str]:
    """How a saved factorization was made, from its row of `factorizations`; older formats kept less."""
    parameters = json.loads(row["parameters"]) if _is_kept(row["parameters"]) else None
    how = ", ".join(f"{name} {value}" for name, value in (parameters or {}).items() if name != "reruns")
    solver = SOLVER_NAMES.get(row["solver"], row["solver"]) if _is_kept(row["solver"]) else UNKNOWN
    return {
        "method": FACTOR_METHOD_NAMES.get(row["method"], row["method"]),
        "k": str(row["k"]),
        "of": slice_sentence(row["slice"], list(row["layers"]), int(row["n_tokens"])),
        "relative error": f"{row['error']:.4f}",
        "negative values": NEGATIVE_NAMES.get(row["negatives"], row["negatives"]),
        "scaling": SCALE_NAMES[bool(row["scale_layers"])],
        "seed": str(row["seed"]),
        "reruns": UNKNOWN if parameters is None else str(parameters.get("reruns", 0)),
        "iterations": _iterations(row["n_iterations"], row["converged"]),
        "solver": f"{solver} ({how})" if how else solver,
        "made": f"{row['created_at']:%Y-%m-%d %H:%M} UTC",
        "with": ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()) or UNKNOWN,
    }


def slice_sentence(of: str, layers: Sequence[int], n_tokens: int) -> str:
    """What was factored, in words; `of` is the factorization's `slice`, a JSON object.

    >>> slice_sentence('{"generations": "0-27,30", "positions": "generated"}', [4, 3], 896)
    'generations 0 to 27 and 30, layers 3 and 4, 896 generated tokens'
    """
    said = json.loads(of)
    where = f" where {said['where']}" if "where" in said else ""
    tokens = _tokens(said.get("positions", "all"), n_tokens)
    named = [named_ranges("generation", said.get("generations", "")), named_ranges("layer", number_ranges(layers))]
    return ", ".join([*filter(None, named), tokens + where])


def whose_tokens(of: str) -> str:
    """The tokens of a factorization's `slice` alone, in words.

    >>> whose_tokens('{"generations": "0-27", "positions": "generated", "where": "rank > 1"}')
    'generations 0 to 27, generated tokens where rank > 1'
    """
    said = json.loads(of)
    kind, where = said.get("positions", "all"), f" where {said['where']}" if "where" in said else ""
    narrowed = f"{kind if kind != 'all' else ''} tokens{where}".strip() if kind != "all" or where else ""
    return ", ".join(filter(None, [named_ranges("generation", said.get("generations", "")), narrowed])) or "all tokens"


def named_ranges(noun: str, ranges: str) -> str:
    """Ranges of numbers in words, after what they number.

    >>> named_ranges("layer", "3-4,7-9")
    'layers 3, 4 and 7 to 9'
    """
    parts: list[str] = []
    for part in filter(None, ranges.split(",")):
        first, to, last = part.partition("-") if not part.startswith("-") else (part, "", "")
        parts += [first, last] if to and int(last) == int(first) + 1 else [f"{first} to {last}" if to else first]
    if not parts:
        return ""
    many = len(parts) > 1 or " to " in parts[0]
    return f"{noun}{'s' if many else ''} {', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}"


def _tokens(kind: str, n: int) -> str:
    return f"{n:,} {'' if kind == 'all' else f'{kind} '}token{'' if n == 1 else 's'}"


def _iterations(n: int, converged: bool) -> str:
    return f"{n}{'' if converged else ', not converged'}"


def _is_kept(value: Any) -> bool:
    """Whether it is there: an older format has NULL, which pandas says in more than one way."""
    return not pd.isna(value)
