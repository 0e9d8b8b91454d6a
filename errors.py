"""Every error that actlake raises on purpose.

    ActlakeError
    ├── InvalidOption            (ValueError)   an option has a value that cannot be used
    │   └── SeveralModels                       neurons of several models are meant: a run is to be named
    ├── StoreNotFound            (LookupError)  no store at that location
    ├── UnsupportedLocation      (ValueError)   a location that actlake cannot use, or cannot write to
    ├── StoreUnreachable         (OSError)      the service that keeps the store does not answer, or refuses
    ├── FormatTooNew                            the store was written by a newer actlake
    ├── CommitNotFound           (LookupError)  the store has no commit of that number
    ├── CorruptLog                              a commit of the log cannot be read or is missing
    ├── CorruptFile                             a data file is not what its commit says
    ├── MissingFile              (LookupError)  a data file that a commit names is not there
    ├── PrecisionOverflow        (ValueError)   a value does not fit the run's precision
    ├── RunNotFound              (LookupError)
    ├── PromptsNotKept           (LookupError)  a store has not all prompts of a run as they were given
    ├── GenerationNotFound       (LookupError)
    ├── FactorizationNotFound    (LookupError)
    ├── NotRecorded              (LookupError)  the run did not record what was asked for
    ├── UnknownLayer             (LookupError)
    ├── UnknownNeuron            (LookupError)
    ├── QueryError               (ValueError)   DuckDB refused the SQL
    ├── QueryStopped             (RuntimeError) a query reached a limit: rows, seconds or memory
    ├── QueryCancelled           (RuntimeError) a query was cancelled by who asked it
    ├── QueryAborted             (RuntimeError) the process of a query ended, and nobody here ended it
    ├── Cancelled                (RuntimeError) long work was cancelled by who asked for it
    ├── InvalidPrompt            (ValueError)   a prompt, named by its file and line
    ├── PromptTooLong            (ValueError)
    ├── ModelNotFound            (LookupError)
    ├── ModelRefused             (ValueError)   the model failed the check at load
    ├── ModelFails               (RuntimeError) the model failed on a prompt, and fails on any other text too
    ├── NothingCaptured          (RuntimeError) every prompt that was tried failed
    ├── MissingLibrary           (ImportError)  an optional library is not installed
    ├── NotEnoughSpace           (OSError)
    ├── TooManyBytes             (ValueError)   a run may write, or came to write, more than it was allowed
    ├── DiskFull                 (OSError)      a write found no room: the disk, a quota or a limit of a file's size
    ├── StoreReadOnly            (OSError)      the system does not let this process write the store
    └── PortInUse                (OSError)

A message says what was asked, what is there and what to do. The raw values are the exception's `args`, the sentence is
`__str__`, so an error that crosses a process boundary arrives whole.
"""

from collections.abc import Sequence
from typing import Literal

Counted = Literal["prompt", "text", "completion"]
"""What is too long: a prompt that is to be continued, a text that is not, or a prompt and its completion together."""


class ActlakeError(Exception):
    """The base of every error that actlake raises on purpose."""


class InvalidOption(ActlakeError, ValueError):
    """An option has a value that cannot be used."""

    def __init__(self, option: str, value: object, wanted: str) -> None:
        super().__init__(option, value, wanted)

    def __str__(self) -> str:
        option, value, wanted = self.args
        return f"{option}={value!r} cannot be used: {wanted}"


class SeveralModels(InvalidOption):
    """Runs of several models have such neurons and none was named; `runs` are the models, each with its runs."""

    def __init__(self, runs: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self.runs = tuple(runs)
        named = "; ".join(
            f"{'runs' if len(numbers) > 1 else 'run'} {number_ranges(numbers)} {'are' if len(numbers) > 1 else 'is'} of {model}"
            for model, numbers in self.runs
        )
        super().__init__("run_id", None, f"name a run, for a neuron of another model is another neuron: {named}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return SeveralModels, (self.runs,)


class StoreNotFound(ActlakeError, LookupError):
    """No store lies at that location."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)

    def __str__(self) -> str:
        return f"no store at {self.args[0]!r} (it has no _log folder); make one with `actlake capture`"


class UnsupportedLocation(ActlakeError, ValueError):
    """A location that actlake cannot use, or cannot write to."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)

    def __str__(self) -> str:
        uri, reason = self.args
        return f"cannot use {uri!r} as a store: {reason}"


class StoreUnreachable(ActlakeError, OSError):
    """The service that keeps the store does not answer, or refuses."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem)

    def __str__(self) -> str:
        uri, problem = self.args
        return f"cannot reach {uri!r}: {problem}"


class FormatTooNew(ActlakeError):
    """The store was written by a newer actlake."""

    def __init__(self, path: str, found: int, known: int, needs: str) -> None:
        super().__init__(path, found, known, needs)

    def __str__(self) -> str:
        path, found, known, needs = self.args
        return (
            f"{path!r} has store format {found}; this actlake reads up to {known}: "
            f"install actlake {needs} or newer (`pip install 'actlake>={needs}'`)"
        )


class CommitNotFound(ActlakeError, LookupError):
    """The store has no commit of that number."""

    def __init__(self, version: int, newest: int) -> None:
        super().__init__(version, newest)

    def __str__(self) -> str:
        version, newest = self.args
        return f"no commit {version}; this store has commits 0 to {newest}"


class CorruptLog(ActlakeError):
    """A commit of the log cannot be read, or one is missing."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        path, problem = self.args
        return f"the commit log is damaged at {path!r}: {problem}; restore that file from a copy of the store"


class CorruptFile(ActlakeError):
    """A data file is not what its commit says."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        path, problem = self.args
        return f"the data file {path!r} is damaged: {problem}; restore it from a copy of the store"


class MissingFile(ActlakeError, LookupError):
    """A data file that a commit names is not there."""

    def __init__(self, path: str, removed_by: int | None = None) -> None:
        super().__init__(path, removed_by)

    def __str__(self) -> str:
        path, removed_by = self.args
        if removed_by is None:
            return f"the data file {path!r} is missing; restore it from a copy of the store"
        return (
            f"the data file {path!r} is gone: commit {removed_by} removed it, and `actlake gc` deleted it later; "
            f"open the store as it is now, or at commit {removed_by} or later"
        )


class PrecisionOverflow(ActlakeError, ValueError):
    """A value does not fit the run's precision."""

    def __init__(self, what: str, value: float, precision: str) -> None:
        super().__init__(what, value, precision)

    def __str__(self) -> str:
        what, value, precision = self.args
        return f"{what} holds {value:g}, which {precision} cannot; capture with --precision bfloat16 or float32"


class RunNotFound(ActlakeError, LookupError):
    """The store holds no run of that number."""

    def __init__(self, run_id: int, n_runs: int) -> None:
        super().__init__(run_id, n_runs)

    def __str__(self) -> str:
        run_id, n_runs = self.args
        held = f"this store holds runs 0 to {n_runs - 1}" if n_runs else "this store holds no run yet"
        return f"no run {run_id}; {held}"


class PromptsNotKept(ActlakeError, LookupError):
    """The store has not all prompts of a run as they were given."""

    def __init__(self, run_id: int, n_prompts: int, n_missing: int, n_unknown: int) -> None:
        super().__init__(run_id, n_prompts, n_missing, n_unknown)

    def __str__(self) -> str:
        run_id, n_prompts, n_missing, n_unknown = self.args
        if n_missing:
            why = f"{n_missing} of its {n_prompts} are not captured yet; finish it with the command that began it"
        else:
            why = f"{n_unknown} went through a chat template before stores kept what they were; give the same prompts again"
        return f"run {run_id} has not all of its prompts: {why}"


class GenerationNotFound(ActlakeError, LookupError):
    """The store holds no generation of that number."""

    def __init__(self, generation_id: int, n_generations: int, last: int | None) -> None:
        super().__init__(generation_id, n_generations, last)

    def __str__(self) -> str:
        generation_id, n_generations, last = self.args
        if not n_generations:
            return f"no generation {generation_id}; this store holds none yet (add some with `actlake capture`)"
        return f"no generation {generation_id}; this store holds {n_generations}, the last of them {last}"


class FactorizationNotFound(ActlakeError, LookupError):
    """The store holds no saved factorization of that number."""

    def __init__(self, factorization_id: int, known: Sequence[int]) -> None:
        super().__init__(factorization_id, tuple(known))

    def __str__(self) -> str:
        factorization_id, known = self.args
        held = (
            f"this store holds {number_ranges(known)}"
            if known
            else "this store holds none yet (add one with `store.save`)"
        )
        return f"no factorization {factorization_id}; {held}"


class NotRecorded(ActlakeError, LookupError):
    """The run did not record what was asked for."""

    def __init__(self, what: str, recorded: Sequence[str], generation_id: int) -> None:
        super().__init__(what, tuple(recorded), generation_id)

    def __str__(self) -> str:
        what, recorded, generation_id = self.args
        return (
            f"generation {generation_id} has no {what}: its run recorded {', '.join(recorded) or 'only tokens'}; "
            f"capture again with `--record {','.join(sorted({*recorded, what} - {'gradient_scores'}))}`"
        )


class UnknownLayer(ActlakeError, LookupError):
    """A layer that the model does not have, or that the run did not record."""

    def __init__(self, asked: Sequence[int], known: Sequence[int]) -> None:
        super().__init__(tuple(asked), tuple(known))

    def __str__(self) -> str:
        asked, known = self.args
        plural = "s" if len(asked) > 1 else ""
        return f"no layer{plural} {number_ranges(asked)}; there are layers {number_ranges(known) or 'none'}"


class UnknownNeuron(ActlakeError, LookupError):
    """A neuron that the model's layers do not have, or that the run did not record."""

    def __init__(self, asked: Sequence[int], d_ff: int, recorded: Sequence[int] | None = None) -> None:
        super().__init__(tuple(asked), d_ff, None if recorded is None else tuple(recorded))

    def __str__(self) -> str:
        asked, d_ff, recorded = self.args
        there = f"each layer has neurons 0-{d_ff - 1}"
        if recorded is not None:
            there += f", of which {number_ranges(recorded) or 'none'} were recorded"
        return f"no neuron{'s' * (len(asked) > 1)} {number_ranges(asked)}; {there}"


class QueryError(ActlakeError, ValueError):
    """DuckDB refused the SQL."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class QueryStopped(ActlakeError, RuntimeError):
    """A query reached one of its limits: `memory_bytes`, `rows` or `seconds`. Rows that came before are right."""

    def __init__(self, limit: str, value: float) -> None:
        super().__init__(limit, value)

    def __str__(self) -> str:
        limit, value = self.args
        said = {
            "memory_bytes": f"{value / 2**30:.3g} GiB of memory; ask for fewer rows or columns, sort or group less",
            "rows": f"{value:,} rows; ask for fewer (limit, a narrower where, an aggregate)",
            "seconds": f"{value:g} seconds; ask for less (a narrower where, one generation or layer)",
        }[limit]
        option = {"memory_bytes": "--memory", "rows": "--max-rows", "seconds": "--timeout"}[limit]
        return f"the query was stopped at its limit of {said}, or raise the limit with {option} (Limits({limit}=…))"


class QueryCancelled(ActlakeError, RuntimeError):
    """A query was cancelled by who asked it."""

    def __str__(self) -> str:
        return "the query was cancelled"


class Cancelled(ActlakeError, RuntimeError):
    """Long work was cancelled by who asked for it; it left nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.args[0]} was cancelled; nothing of it was kept"


class QueryAborted(ActlakeError, RuntimeError):
    """The process of a query ended, and nobody here ended it."""

    def __init__(self, code: int, said: str = "") -> None:
        super().__init__(code, said)

    def __str__(self) -> str:
        code, said = self.args
        if code == -9:
            return (
                "the query's process was killed from outside, as a system does that has no memory left; "
                "ask for less at a time, or allow it less memory (--memory, Limits(memory_bytes=…))"
            )
        how = f"on signal {-code}" if code < 0 else f"with code {code}"
        return f"the query's process ended {how}{f' ({said})' if said else ''}; ask again, or ask for less at a time"


class InvalidPrompt(ActlakeError, ValueError):
    """A prompt that cannot be captured, named by where it stands."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)

    def __str__(self) -> str:
        where, problem = self.args
        return f"{where}: {problem}"


class PromptTooLong(ActlakeError, ValueError):
    """A prompt after which the model has no room for a token, or a text, or a prompt with its completion, that does not fit."""

    def __init__(self, where: str, n_tokens: int, context: int, counted: Counted = "prompt") -> None:
        super().__init__(where, n_tokens, context, counted)

    def __str__(self) -> str:
        where, n_tokens, context, counted = self.args
        subject, so, most = {
            "prompt": ("the prompt has", ", so nothing could follow it; shorten it", context - 1),
            "text": ("the text has", "; shorten it", context),
            "completion": ("the prompt and its completion have", "; shorten them", context),
        }[counted]
        holds = f"{n_tokens} tokens and the model's context holds {context}"
        return f"{where}: {subject} {holds}{so} to {most} tokens or fewer"


class ModelNotFound(ActlakeError, LookupError):
    """No model by that name can be loaded."""

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(model, problem)

    def __str__(self) -> str:
        model, problem = self.args
        return f"cannot load model {model!r}: {problem}"


class ModelRefused(ActlakeError, ValueError):
    """The model failed the check at load: recording it could be wrong."""

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(model, problem)

    def __str__(self) -> str:
        model, problem = self.args
        return f"model {model!r} is refused, because what would be recorded could be wrong: {problem}"


class ModelFails(ActlakeError, RuntimeError):
    """The model failed on a prompt, and fails on any other text too, so that it is not the prompt's fault."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)

    def __str__(self) -> str:
        where, reason = self.args
        return (
            f"the model fails on any text now, first on {where}: {reason}; what was committed is kept: "
            "see to the device and its memory, and run the same again"
        )


class NothingCaptured(ActlakeError, RuntimeError):
    """Every prompt that was tried failed, and the run has no generation."""

    def __init__(self, n_failed: int, where: str, reason: str) -> None:
        super().__init__(n_failed, where, reason)

    def __str__(self) -> str:
        n_failed, where, reason = self.args
        tried = f"the first {n_failed} prompts failed" if n_failed > 1 else "the prompt failed"
        return f"{tried}, so the run was ended with nothing captured; {where}: {reason}"


class MissingLibrary(ActlakeError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, what: str, extra: str) -> None:
        super().__init__(library, what, extra)

    def __str__(self) -> str:
        library, what, extra = self.args
        return f"`{what}` needs the library {library}, which is not installed: `pip install 'actlake[{extra}]'`"


class NotEnoughSpace(ActlakeError, OSError):
    """The run would fill the disk."""

    def __init__(self, uri: str, needed: int, free: int) -> None:
        Exception.__init__(self, uri, needed, free)  # OSError would keep two of them

    def __str__(self) -> str:
        uri, needed, free = self.args
        return (
            f"the run may write {needed / 1e9:.2f} GB and {uri!r} has {free / 1e9:.2f} GB free; "
            "record less (--record, --layers, --neurons, --every, --only-generated, --gradients, --max-new-tokens) or use "
            "another disk"
        )


class TooManyBytes(ActlakeError, ValueError):
    """A run may write more than it was allowed, or came to: `written` then has the bytes of what was committed, and is kept."""

    def __init__(self, max_bytes: int, needed: int, written: int | None = None) -> None:
        super().__init__(max_bytes, needed, written)

    def __str__(self) -> str:
        max_bytes, needed, written = self.args
        if written is None:
            return (
                f"the run may write {needed / 1e6:.3g} MB and is allowed {max_bytes / 1e6:.3g} MB, so nothing was written; "
                "record less (--record, --layers, --neurons, --every, --only-generated, --gradients, --max-new-tokens) "
                "or allow more (--max-bytes)"
            )
        return (
            f"the run was stopped, because it may come to {needed / 1e6:.3g} MB, of {max_bytes / 1e6:.3g} MB allowed; "
            f"what was committed ({written / 1e6:.3g} MB) is kept, and the same command goes on from there when it allows "
            "more (--max-bytes)"
        )


class DiskFull(ActlakeError, OSError):
    """A write found no room. What was committed is whole, and the write left nothing behind."""

    def __init__(self, path: str, needed: int, reason: str) -> None:
        Exception.__init__(self, path, needed, reason)

    def __str__(self) -> str:
        path, needed, reason = self.args
        return (
            f"cannot write {path!r} ({needed / 1e6:.3g} MB): {reason}; what was committed is kept: "
            "make room (`actlake gc` may) and run the same again"
        )


class StoreReadOnly(ActlakeError, OSError):
    """The system does not let this process write the store; it can be read."""

    def __init__(self, path: str, reason: str) -> None:
        Exception.__init__(self, path, reason)

    def __str__(self) -> str:
        path, reason = self.args
        return f"the store cannot be written ({path!r}: {reason}); it can be read, or copied to where you may write"


class PortInUse(ActlakeError, OSError):
    """Something else listens on that port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)

    def __str__(self) -> str:
        return f"port {self.args[0]} is in use; choose another with --port"


def check_text(option: str, text: str) -> None:
    r"""Raises InvalidOption for a text that no file can hold: one with half of a character, which UTF-8 does not have.

    >>> check_text("label", "a\ud800")
    Traceback (most recent call last):
    ...
    actlake.errors.InvalidOption: label='a\ud800' cannot be used: it has half of a character (a lone surrogate); leave it out
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidOption(option, text, "it has half of a character (a lone surrogate); leave it out")


def number_ranges(numbers: Sequence[int]) -> str:
    """Numbers as people write them; those below 0 each by itself.

    >>> number_ranges([-1, 0, 3, 4, 5, 9])
    '-1,0,3-5,9'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1 and number > 0:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
