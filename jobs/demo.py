"""The whole way on the speech that ships with the project: audio shards → tokenizer → token shards.

The encoder is a small WavLM with random weights from a fixed seed: it shows every step, but its
tokens say little about speech. For real ones give a real encoder to jobs/train_tokenizer.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import json
import os
import shlex
import subprocess

import torch
import webdataset
from transformers import WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from jobs import flags

SPEECH = Path(os.path.relpath(ROOT / "tests" / "speech"))
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "conv_dim": [256] * 7,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__.strip(), "python jobs/demo.py --output out/demo")
    parser.add_argument("--output", type=Path, required=True, help="a local folder")
    return parser.parse_args()


def make_encoder(folder: Path) -> None:
    """A small WavLM folder in Hugging Face's form, the same weights every time."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**SMALL)).save_pretrained(folder)


def run_job(name: str, *flags_: object) -> None:
    """Show a job's command as a person would type it, and run it."""
    command = [f"jobs/{name}.py", *map(str, flags_)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]])
    if done.returncode:
        sys.exit(done.returncode)


def show_tokens(shards: Path) -> None:
    """Read token shards with plain webdataset and print one utterance of each."""
    print(f"\nread back from {shards} with plain webdataset:")
    for path in sorted(shards.glob("*.tar")):
        sample = next(iter(webdataset.WebDataset(str(path), shardshuffle=False).decode()))
        about, tokens = sample["json"], sample["tokens.npy"]
        print(
            f"  {sample['__key__']}  {about['duration_s']:.2f} s  {about['num_tokens']} tokens  "
            f'"{about["metadata"]["text"]}"'
        )
        print(f"    {tokens.dtype} {tokens.shape}  {' '.join(map(str, tokens[:16]))} ...")


def main() -> int:
    """Make an encoder, train a tokenizer on it, tokenize, and show what came out."""
    out = parse().output
    encoder, tokenizer, tokens = out / "encoder", out / "tokenizer", out / "tokens"
    if not (encoder / "model.safetensors").exists():
        make_encoder(encoder)
    print(
        f"encoder: {encoder}, a small WavLM with random weights from a fixed seed. It shows every "
        "step;\n         its tokens say little about speech."
    )
    if not (tokenizer / "config.json").exists():
        run_job(
            "train_tokenizer",
            "--input",
            SPEECH,
            "--encoder",
            encoder,
            "--layer",
            2,
            "--codebook-size",
            128,
            "--method",
            "kmeans",
            "--output",
            tokenizer,
        )
    run_job("tokenize", "--input", SPEECH, "--tokenizer", tokenizer, "--output", tokens)
    show_tokens(tokens / "shards")
    summary = json.loads((tokens / "summary.json").read_text())
    print(
        f"\n{summary['ok']} of {summary['samples']} utterances tokenized; every one has a row in "
        f"{tokens}/manifest.parquet.\nRun it again: nothing is done twice. "
        f"`rm -r {out}` starts over."
    )
    return 0


if __name__ == "__main__":
    flags.run(main)
