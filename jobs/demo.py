"""Run the whole pipeline on the speech that ships: tokens, speech again, a language model.

Tokenizes tests/speech with a tokenizer that ships, decodes the tokens, measures them, trains a
k-means codebook, trains a small language model for a minute, lets it continue an utterance, and
writes a report of it all.
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

from jobs.cli import flags

SPEECH = Path(os.path.relpath(ROOT / "tests" / "speech"))
# About a minute on two cores; the model overfits ten thousand tokens soon after.
LM_STEPS = ("--rows", 4, "--steps", 200)
TOKENIZER, ENCODER, LAYER = "wavlm-tiny-d1024", "wavlm-tiny", 4


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/demo.py --output out/demo")
    parser.add_argument("--output", type=Path, required=True, help="a local folder")
    return parser.parse_args()


def run_job(name: str, *arguments: object) -> None:
    """Show a job's command as a person would type it, and run it. Exits with it if it fails."""
    command = [f"jobs/{name}.py", *map(str, arguments)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]])
    if done.returncode:
        sys.exit(done.returncode)


def show_tokens(shards: Path) -> None:
    """Read token shards with plain webdataset and print one utterance of each."""
    import webdataset

    print(f"\nread back from {shards} with plain webdataset:")
    for path in sorted(shards.glob("*.tar")):
        sample = next(iter(webdataset.WebDataset(str(path), shardshuffle=False).decode()))
        info, tokens = sample["json"], sample["tokens.npy"]
        print(
            f"  {sample['__key__']}  {info['duration_s']:.2f} s  {info['num_tokens']} tokens  "
            f'"{info["metadata"]["text"]}"'
        )
        print(f"    {tokens.dtype} {tokens.shape}  {' '.join(map(str, tokens[:16]))} ...")


def write_pair(decoded: Path, output: Path) -> None:
    """Write the first utterance as two wav files: the original, and decoded from its tokens."""
    import soundfile
    import webdataset

    for folder, name in ((SPEECH, "original"), (decoded, "resynthesised")):
        path = sorted(folder.glob("*.tar"))[0]
        sample = next(iter(webdataset.WebDataset(str(path), shardshuffle=False)))
        waveform, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        wav = output / f"{name}.wav"
        soundfile.write(wav, waveform, rate, "PCM_16")
        print(f"  {wav}  {sample['__key__']}  {len(waveform) / rate:.2f} s")


def main() -> int:
    """Tokenize, decode, evaluate; train a codebook and a language model; continue an utterance."""
    output = parse().output
    if not SPEECH.is_dir():
        problem = "an installed wavmill has no speech to show it on"
        raise flags.unusable(
            "--output", output, problem, remedy="run it in a checkout, as `make demo`"
        )
    tokens, decoded = output / "tokens", output / "decoded"
    codebook, lm = output / "tokenizer", output / "lm"
    tokenize = ("--input", SPEECH, "--tokenizer", TOKENIZER, "--output", tokens)
    run_job("tokenize", *tokenize)
    show_tokens(tokens / "shards")
    run_job("detokenize", "--input", tokens, "--tokenizer", TOKENIZER, "--output", decoded)
    print("\nlisten to one, before and after:")
    write_pair(decoded, output)
    # With the same --output the tokens are read, not made again.
    figures, page = output / "figures.json", output / "report.html"
    # Scores of sound would take longer than all the rest.
    run_job("evaluate", "tokens", *tokenize, "--scores", "none", "--json", figures)
    if not (codebook / "config.json").exists():
        kmeans = ("--codebook-size", 128, "--method", "kmeans", "--output", codebook)
        encoder = ("--encoder", ENCODER, "--layer", LAYER)
        run_job("train_tokenizer", "--input", SPEECH, *encoder, *kmeans)
    preset = ("--tokenizer", TOKENIZER, "--encoder", ENCODER, "--preset", "tiny")
    run_job("train_lm", "--input", tokens, *preset, *LM_STEPS, "--output", lm)
    prompt = ("--prompt", output / "original.wav", "--seconds", 4)
    run_job("generate", "--lm", lm / "model", *prompt, "--output", output / "continued")
    shown = ("--tokens", tokens, "--lm", lm / "model", "--figures", figures)
    run_job("report", *shown, "--continuations", output / "continued", "--output", page)
    summary = json.loads((tokens / "summary.json").read_text())
    print(
        f"\n{summary['ok']} of {summary['samples']} utterances tokenized; every one has a row in "
        f"{tokens}/manifest.parquet.\nSee and hear it all: open {page} in a browser.\n"
        "Run it again: nothing is done twice. "
        f"`rm -r {output}` starts over."
    )
    return 0


if __name__ == "__main__":
    flags.run(main)
