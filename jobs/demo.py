"""The whole way on what ships: speech → its tokenizer → token shards → speech again.

Then the tokens are judged, a codebook of one's own is trained on the encoder that ships, and a
small language model for a minute, which goes on where an utterance ends.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import io
import json
import os
import shlex
import subprocess

import soundfile
import webdataset

from jobs.cli import flags

SPEECH = Path(os.path.relpath(ROOT / "tests" / "speech"))
# About a minute on two cores; ten thousand tokens are soon known by heart.
LM_STEPS = ("--rows", 4, "--steps", 200)
TOKENIZER, ENCODER, LAYER = "wavlm-tiny-d1024", "wavlm-tiny", 4


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__.strip(), "python jobs/demo.py --output out/demo")
    parser.add_argument("--output", type=Path, required=True, help="a local folder")
    return parser.parse_args()


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


def write_pair(heard: Path, out: Path) -> None:
    """The first utterance as it was and as its tokens sound, as two wav files side by side."""
    for folder, name in ((SPEECH, "original"), (heard, "resynthesised")):
        path = sorted(folder.glob("*.tar"))[0]
        sample = next(iter(webdataset.WebDataset(str(path), shardshuffle=False)))
        wave, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        wav = out / f"{name}.wav"
        soundfile.write(wav, wave, rate, "PCM_16")
        print(f"  {wav}  {sample['__key__']}  {len(wave) / rate:.2f} s")


def main() -> int:
    """Tokenize, show what came out, make sound of it, judge it; train a codebook and an LM."""
    out = parse().output
    tokens, heard, own, lm = (out / name for name in ("tokens", "heard", "tokenizer", "lm"))
    same = ("--input", SPEECH, "--tokenizer", TOKENIZER, "--output", tokens)
    run_job("tokenize", *same)
    show_tokens(tokens / "shards")
    run_job("detokenize", "--input", tokens, "--tokenizer", TOKENIZER, "--output", heard)
    print("\nlisten to one, before and after:")
    write_pair(heard, out)
    # With the same --output the tokens are read, not made again.
    run_job("evaluate", "tokens", *same)
    if not (own / "config.json").exists():
        train = ("--codebook-size", 128, "--method", "kmeans", "--output", own)
        run_job(
            "train_tokenizer", "--input", SPEECH, "--encoder", ENCODER, "--layer", LAYER, *train
        )
    learn = ("--tokenizer", TOKENIZER, "--encoder", ENCODER, "--preset", "tiny")
    run_job("train_lm", "--input", tokens, *learn, *LM_STEPS, "--output", lm)
    prompt = ("--prompt", out / "original.wav", "--seconds", 4)
    run_job("generate", "--lm", lm / "model", *prompt, "--output", out / "continued")
    summary = json.loads((tokens / "summary.json").read_text())
    print(
        f"\n{summary['ok']} of {summary['samples']} utterances tokenized; every one has a row in "
        f"{tokens}/manifest.parquet.\nRun it again: nothing is done twice. "
        f"`rm -r {out}` starts over."
    )
    return 0


if __name__ == "__main__":
    flags.run(main)
