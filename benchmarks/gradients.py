"""Measures the gradients of generated tokens on the built-in model against other ways to get them, in turn, in one run.

    python benchmarks/gradients.py [--rounds 3] [--prompts 4] [--prompt-tokens N] [--max-new-tokens 32] [--threads N]
                                   [--skip-parameters] [--inseq PYTHON]

Every figure is of this run on this machine: the median of the rounds, with the least and the greatest. All ways have the
same texts, which are generated once. Times are CPU times of the process, on one thread unless told, since other work on the
machine disturbs those least. `--inseq` names a Python that has inseq; it runs beside, as another process.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from actlake.capture import CaptureOptions, Model, load_model, make_plan, prompts_from, read_prompts
from actlake.capture.builtin import NAME, builtin_folder
from actlake.capture.generate import continuations
from actlake.capture.procedure import Procedure
from actlake.capture.replay import replay
from actlake.capture.wanted import Wanted
from main_job import BATCH_SIZE, spread

Texts = list[tuple[list[int], int]]
"""Token ids, and how many of them are the prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=4, help="of the demo's, from the first on")
    parser.add_argument("--prompt-tokens", type=int, help="so many from all of the demo's prompts, one after the other")
    parser.add_argument("--skip-parameters", action="store_true", help="leave out the way that takes longest")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inseq", metavar="PYTHON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(NAME)
    batches = generated(model, options.prompts, options.prompt_tokens, options.max_new_tokens)
    texts = [text for batch in batches for text in batch]
    n_outputs = sum(len(ids) - p for ids, p in texts)
    n_tokens = sum(len(ids) for ids, _ in texts)
    print(f"{len(texts)} texts, {n_tokens} tokens, {n_outputs} of them generated, batches of {BATCH_SIZE}")
    print(f"torch {torch.__version__}, {options.threads} threads")
    ways: dict[str, Callable[[], float]] = {
        "actlake": lambda: seconds(lambda: [ours(model, batch) for batch in batches]),
        "a backward a token, one forward a text": lambda: seconds(lambda: one_forward(model, texts)),
        "a forward and backward a token": lambda: seconds(lambda: plain(model, texts)),
        "… that gives parameters' gradients too": lambda: seconds(lambda: plain(model, texts, parameters=True)),
    }
    if options.skip_parameters:
        del ways["… that gives parameters' gradients too"]
    if options.inseq:
        ways["inseq"] = inseq(options.inseq, model, texts, options.threads)
    print(
        f"the greatest difference from a forward and backward a token: {difference(model, batches):.1e} of its greatest\n"
    )
    rates: dict[str, list[float]] = {way: [] for way in (*ways, "floor")}
    for number in range(options.rounds):
        for way, run in ways.items():
            rates[way].append(n_outputs / run())
            print(f"round {number}: {way} {rates[way][-1]:.2f}", file=sys.stderr, flush=True)
        rates["floor"].append(n_outputs / (floor_flops(model, texts) / matmul_rate(model)))
    print(f"{'output tokens a second':42}{'':26}actlake is")
    for way, of_way in rates.items():
        ratios = [a / b for a, b in zip(rates["actlake"], of_way, strict=True)]
        print(f"{way:42}{spread(of_way):26}{spread(ratios, unit='×')}")


def generated(model: Model, n_prompts: int, n_prompt_tokens: int | None, max_new_tokens: int) -> list[Texts]:
    with resources.as_file(resources.files("actlake.capture") / "demo.jsonl") as path:
        prompts = read_prompts(path)
    if n_prompt_tokens:
        ids = model.tokenizer(" ".join(prompt.text for prompt in prompts))["input_ids"]
        starts = range(0, n_prompts * n_prompt_tokens, n_prompt_tokens)
        prompts = prompts_from([model.tokenizer.decode(ids[start : start + n_prompt_tokens]) for start in starts])
    prompts = prompts[:n_prompts]
    options = CaptureOptions(max_new_tokens=max_new_tokens, batch_size=BATCH_SIZE)
    batches = []
    for unit in make_plan(model, prompts, options).units(options, Procedure()):
        asked = [work.token_ids for work in unit]
        indices = [work.prompt_index for work in unit]
        written = continuations(model, asked, max_new_tokens, options.sampling, indices)
        batches.append([([*ids, *more], len(ids)) for ids, more in zip(asked, written, strict=True)])
    return batches


def seconds(work: Callable[[], object]) -> float:
    """CPU time, of all threads together over their number."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / torch.get_num_threads()


def ours(model: Model, batch: Texts) -> list[list[np.ndarray]]:
    """The replay, its one forward pass for everything that is recorded included."""
    texts, n_prompt_tokens = zip(*batch, strict=True)
    wanted = Wanted(target="logit", gradient_tokens=CaptureOptions().gradient_tokens)
    return [recorded.gradients for recorded in replay(model, texts, n_prompt_tokens, wanted)()]


def plain(model: Model, texts: Texts, *, parameters: bool = False) -> list[list[np.ndarray]]:
    """A forward and a backward pass over what stands before it for each token.

    With `parameters` as Ecco does it: its model is as it was loaded, so that its parameters get gradients too.
    """
    network = model.network.requires_grad_(parameters)
    found = []
    for ids, p in texts:
        all_ids = torch.tensor([ids])
        of_text = []
        for position in range(p, len(ids)):
            embedding = network.get_input_embeddings()(all_ids[:, :position]).detach().requires_grad_()
            network(inputs_embeds=embedding, use_cache=False).logits[0, -1, ids[position]].backward()
            of_text.append(embedding.grad[0].numpy())
        found.append(of_text)
    network.requires_grad_(False)
    network.zero_grad(set_to_none=True)
    return found


def one_forward(model: Model, texts: Texts) -> None:
    """One forward pass for each text, and a backward pass through all of its graph for each token."""
    network = model.network
    for ids, p in texts:
        embedding = network.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
        logits = network(inputs_embeds=embedding, use_cache=False).logits[0]
        for position in range(p, len(ids)):
            (gradient,) = torch.autograd.grad(logits[position - 1, ids[position]], embedding, retain_graph=True)
            gradient[0, :position].numpy().copy()


def inseq(python: str, model: Model, texts: Texts, n_threads: int) -> Callable[[], float]:
    """Seconds that inseq takes for the same texts; it tokenizes them itself."""
    script = Path(__file__).with_name("with_inseq.py")
    process = subprocess.Popen(
        [python, script, builtin_folder(), str(n_threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    said = (line.removeprefix("answer ") for line in process.stdout or () if line.startswith("answer "))
    print(f"inseq in a process of its own: {next(said).strip()}")
    decode = model.tokenizer.decode
    asked = json.dumps([[decode(ids[:p]), decode(ids)] for ids, p in texts])
    n_outputs = sum(len(ids) - p for ids, p in texts)

    def run() -> float:
        assert process.stdin
        print(asked, file=process.stdin, flush=True)
        taken, n_attributed = json.loads(next(said))
        return taken * n_outputs / n_attributed

    return run


def difference(model: Model, batches: list[Texts]) -> float:
    worst = 0.0
    for batch in batches:
        for of_text, expected in zip(ours(model, batch[:1]), plain(model, batch[:1]), strict=True):
            for a, b in zip(of_text, expected, strict=True):
                worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


def floor_flops(model: Model, texts: Texts) -> float:
    """What one backward pass to the embeddings for each output token has to multiply and add, over what stands before it.

    Each weight of the blocks' linear maps twice for each position, and attention's four products, causal, for each layer.
    """
    blocks = [model.network.get_submodule(name) for name in model.anatomy.blocks]
    n_weights = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2)
    positions = [position for ids, p in texts for position in range(p, len(ids))]
    attention = 4 * model.anatomy.d_model * len(blocks)  # 4 products × 2 flops, half of the square
    return float(sum(2 * n_weights * t + attention * t * t for t in positions))


def matmul_rate(model: Model) -> float:
    """Flops a second of a product of 1,024 positions' gradients with an FFNN's weight."""
    n, d_ff, d_model = 1024, model.anatomy.d_ff, model.anatomy.d_model
    a, weight = torch.randn(n, d_ff), torch.randn(d_ff, d_model)
    times = []
    for _ in range(30):
        times.append(seconds(lambda: a @ weight))
    return 2 * n * d_ff * d_model / float(np.median(times))


if __name__ == "__main__":
    main()
