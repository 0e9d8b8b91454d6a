"""How a run was made, and what would make it again: its facts, the command, and its prompts as they were given."""

import json
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ..errors import number_ranges
from ..store.schema import RECORDS

UNKNOWN = "unknown (it was not kept then)"
STANDARD_INPUT = "-"
READ_FROM_IT = "standard input"
"""What prompts that came from it say of where they are from."""


@dataclass(frozen=True)
class Provenance:
    """A run of the store at `uri`: its row of `runs`, with what is JSON there as mappings; how many of its `n_prompts` are
    captured, as how many tokens; and how many prompts the store does not have as they were given."""

    uri: str
    row: Mapping[str, Any]
    n_prompts: int
    n_generations: int
    n_tokens: int
    n_unknown_prompts: int

    @property
    def config(self) -> Mapping[str, Any]:
        """What `generation_config` says."""
        return dict(self.row["generation_config"])

    @property
    def options(self) -> dict[str, Any]:
        """The options of `actlake.capture` that make the run again: as they were given, with the device and type that it had.

        Of a run that was captured before options were kept, those that its row tells.
        """
        config = self.config
        given = dict(config.get("options") or _options_of(self.row, config))
        return given | {name: config[name] for name in ("device", "dtype") if config.get(name)}

    @property
    def keeps_prompts(self) -> bool:
        """Whether the store has all prompts as they were given."""
        return self.n_generations == self.n_prompts and not self.n_unknown_prompts

    def command(self, defaults: Mapping[str, object]) -> str:
        """The shell's command that makes the run again, in a store beside this one; in this one it finds it there.

        Options that have the value of `defaults`, those of the command line, are left out.
        """
        prompts = [STANDARD_INPUT]
        if not self.keeps_prompts:
            files = [STANDARD_INPUT if name == READ_FROM_IT else name for name in self._kept.get("sources", ())]
            prompts = [*files, *(["--prompt", "TEXT"] if files and self._n_given else [])] or ["PROMPTS"]
        words = ["actlake", "capture", f"{self.uri.rstrip('/')}-again", *prompts, "--model", self.row["model"]]
        capture = " ".join(map(_quoted, [*words, *_arguments(self.options, defaults)]))
        if not self.keeps_prompts:
            return capture
        return f"actlake info {_quoted(self.uri)} --run {self.row['run_id']} --prompts | {capture}"

    def notes(self) -> list[str]:
        """Where the same command may give something else, or cannot be given: a sentence each."""
        found = [
            f"{library} was {then}, and is {now or 'not installed'} now"
            for library, then in self.row["versions"].items()
            if (now := _version(library)) != then
        ]
        if (device := self.config.get("device")) != "cpu":
            where = self._device if device else "a device that was not kept"
            found.append(f"it computed on {where}; another one rounds otherwise")
        if not self.keeps_prompts:
            missing = self.n_prompts - self.n_generations + self.n_unknown_prompts
            some = f"{missing} of its {self.n_prompts} prompts"
            found.append(f"{some} are not in the store as they were given: give the same again")
            if self._n_given:
                given = f"{self._n_given} of its prompts came from no file (--prompt, or Python)"
                found.append(f"{given}: give them as they were, in their order, after those of files")
        weights = self.row["model_hash"][:12]
        found.append(f"weights are compared when the model is loaded: others than {weights}… make another run")
        return found

    def facts(self) -> list[tuple[str, str]]:
        """All that is known of the run, for people: what, and its value."""
        row, config = self.row, self.config
        files = list(self._kept.get("sources", ()))
        sources = (
            ", ".join([*files, *([f"{self._n_given} from no file"] if files and self._n_given else [])]) or "no file"
        )
        shape = ", ".join(f"{name} {row[name]}" for name in ("n_layers", "d_model", "d_ff", "vocab_size"))
        how = ("max_new_tokens", "temperature", "top_k", "top_p", "chat", "end_ids")
        return [
            ("run", str(row["run_id"])),
            ("name", row["name"]),
            ("model", row["model"]),
            ("model_revision", row["model_revision"] or "none"),
            ("model_hash", row["model_hash"]),
            ("tokenizer_hash", row["tokenizer_hash"]),
            ("architecture", f"{row['architecture']}: {shape}"),
            ("ffn", str(config.get("ffn", UNKNOWN))),
            ("attention", f"{config.get('attn_implementation', UNKNOWN)}, {config.get('attention', 'causal')}"),
            ("device", self._device),
            ("dtype", config.get("dtype", UNKNOWN)),
            ("precision", row["precision"]),
            ("recorded", ", ".join(row["recorded"]) or "tokens"),
            ("layers", number_ranges(config["layers"]) or "none"),
            ("gradient_target", row["gradient_target"] or "none"),
            ("generation", ", ".join(f"{name} {config[name]}" for name in how if name in config) or UNKNOWN),
            ("seed", str(row["seed"])),
            ("prompts", f"{self.n_prompts}, SHA-256 {self._kept['sha256']}, from {sources}" if self._kept else UNKNOWN),
            ("captured", f"{self.n_generations} of {self.n_prompts} generations, {self.n_tokens} tokens"),
            ("versions", ", ".join(f"{library} {version}" for library, version in row["versions"].items()) or UNKNOWN),
            ("created_at", f"{row['created_at']:%Y-%m-%d %H:%M:%S} UTC"),
            ("status", row["status"]),
        ]

    @property
    def _kept(self) -> Mapping[str, Any]:
        """What was kept of the prompts as a whole; nothing by older versions."""
        return dict(self.config.get("prompts") or {})

    @property
    def _n_given(self) -> int:
        """How many prompts came from no file; 0 of a run that was captured before it was kept."""
        return int(self._kept.get("n_given", 0))

    @property
    def _device(self) -> str:
        device, name = self.config.get("device"), self.config.get("device_name")
        return f"{device} ({name})" if name else device or UNKNOWN


def prompt_record(prompt: str, source: str | None, metadata: str, written: bool) -> dict[str, Any]:
    """A prompt's record as it was given, from its row of `generations`; a text that is no source is what the row says."""
    own = json.loads(source) if source else {"prompt" if written else "text": prompt}
    return {**own, **json.loads(metadata)}


def parsed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `runs` with what is JSON there as mappings."""
    return {**row, **{name: json.loads(row[name]) for name in ("generation_config", "versions")}}


def _options_of(row: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options that a run without them must have had."""
    scores = "gradient_scores" in row["recorded"]
    yield "record", [what for what in RECORDS if what in row["recorded"] or (scores and what == "gradients")]
    yield "gradients", "scores" if scores else "vectors"
    if "activations" in row["recorded"] and list(config["layers"]) != list(range(row["n_layers"])):
        yield "layers", config["layers"]
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "chat"):
        if name in config:
            yield name, config[name]
    for name in ("precision", "gradient_target", "seed"):
        if row[name] is not None:
            yield name, row[name]
    if row["name"] != row["model"]:
        yield "name", row["name"]


def _arguments(options: Mapping[str, Any], defaults: Mapping[str, object]) -> Iterator[str]:
    """Options as the command line takes them."""
    for name, value in options.items():
        flag, default = name.replace("_", "-"), defaults.get(name)
        if value is None:
            continue
        if isinstance(value, bool):
            if value != (default is True):
                yield f"--{flag}" if value else f"--no-{flag}"
        elif (text := _text(value)) != str(default):
            yield f"--{flag}={text}" if text.startswith("-") else f"--{flag}"
            if not text.startswith("-"):
                yield text


def _quoted(word: str) -> str:
    """A word as a shell takes it; one with control characters as bash and zsh do, who never see them raw."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        f"\\x{ord(char):02x}" if char < "\x80" else f"\\U{ord(char):08x}" if not char.isprintable() else char
        for char in word
    )
    return f"$'{''.join(escaped)}'"


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = [each for each in value if isinstance(each, int)]
        return number_ranges(numbers) if numbers else ",".join(map(str, value))
    return str(value)


def _version(library: str) -> str | None:
    if library == "python":
        return platform.python_version()
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
