"""What a tokenizer or language model is, in a few printed lines, and what to run next."""

from jobs.cli.parser import command
from lm.model import SpeechLM
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.config import MFCCConfig
from tokenizer.storage.tokenizer_files import TokenizerFiles


def about_tokenizer(files: TokenizerFiles) -> dict[str, str]:
    """Name and value of a tokenizer's shape, rate, latency and fingerprint."""
    rows = {}
    encoder, shape = files.encoder, files.compressor
    if isinstance(encoder, MFCCConfig):
        rows["encoder"] = "MFCCs"
    else:
        rows["encoder"] = f"{encoder.layer} layers of width {encoder.hidden_size}"
    if shape:
        inside = ", ".join(map(str, shape.hidden))
        rows["compressor"] = f"{shape.width} → {inside} → {shape.latent} dimensions"
    rows["codes"] = f"{files.codebook_size:,}, nearest by {files.metric}"
    rows["rate"] = f"{FRAMES_PER_SECOND / files.frames_per_token:g} tokens per second"
    past, chunk = files.past_and_chunk
    if past:
        rows["latency"] = f"{1000 * chunk // FRAMES_PER_SECOND} ms"
    else:
        rows["latency"] = "whole utterances: it is not causal"
    rate = f"{files.vocoder.sample_rate:,} Hz" if files.vocoder else "none: it has no vocoder"
    rows["decoded speech"] = rate
    rows["fingerprint"] = files.fingerprint[:12]
    return rows


def about_lm(model: SpeechLM) -> dict[str, str]:
    """Name and value of a language model's shape."""
    config = model.config
    parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {
        "language model": f"{config.layers} layers of width {config.width}, {config.heads} heads, "
        f"{parameters:,} parameters",
        "predicts": f"{config.chunk} tokens at once, from up to {config.window} before",
    }


def print_rows(rows: dict[str, str], output: str) -> None:
    """A line for each row, and where it was written."""
    for name, value in rows.items():
        print(f"{name:<16}{value}")
    print(f"written to {output}")


def print_next(*commands: tuple[str, str]) -> None:
    """The jobs to run next, with their flags."""
    print("next:")
    for job, given in commands:
        print(f"  {command(job)} {given}")
