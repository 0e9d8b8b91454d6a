"""What is captured on a device that is not the CPU, which refuses tensors of two devices, is what is captured on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "configs",
    [
        {"LlamaConfig": "llama", "GPT2Config": "gpt2", "OPTConfig": "opt"},
        {"BloomConfig": "bloom", "Gemma2Config": "gemma2", "RobertaConfig": "roberta", "AlbertConfig": "albert"},
    ],
    ids=lambda configs: ", ".join(configs.values()),
)
def test_what_is_captured_elsewhere_is_what_is_captured_on_the_cpu(tmp_path: Path, configs: dict[str, str]) -> None:
    script = Path(__file__).with_name("another_device.py")
    command = [sys.executable, str(script), str(tmp_path), *configs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    refused, *lines = done.stdout.splitlines()
    assert "was given tensors of two devices" in refused
    of_kinds = {kind: [line for line in lines if line.startswith(f"{kind}, ")] for kind in configs.values()}
    assert {len(of_kind) for of_kind in of_kinds.values()} <= {4, 6}
    assert sum(map(len, of_kinds.values())) == len(lines)
