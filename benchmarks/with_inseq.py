"""Attributes texts with inseq, for benchmarks/gradients.py, in a Python that has inseq installed.

    python benchmarks/with_inseq.py MODEL_FOLDER N_THREADS

Reads a JSON array of [prompt, prompt and completion] a line; writes what it took in seconds of CPU time, and how many
tokens it attributed.
"""

import importlib.metadata
import json
import sys
import time

import inseq
import torch


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]))
    model = inseq.load_model(sys.argv[1], "input_x_gradient", device="cpu")
    answer({name: importlib.metadata.version(name) for name in ("inseq", "captum", "torch", "transformers")})
    for line in sys.stdin:
        n_outputs, started = 0, time.process_time()
        for prompt, text in json.loads(line):
            found = model.attribute(prompt, text, attributed_fn="logit", show_progress=False)
            n_outputs += found.sequence_attributions[0].target_attributions.shape[1]
        answer([(time.process_time() - started) / torch.get_num_threads(), n_outputs])


def answer(value: object) -> None:
    print(f"answer {json.dumps(value)}", flush=True)  # inseq prints too


if __name__ == "__main__":
    main()
