"""Audio shards → a WavLM, in rounds: k-means labels of all shards, then prediction of masked ones.

The labels of the first round are of MFCCs, those of a later one of the features that the round
before learned (HuBERT, Hsu et al. 2021, arXiv 2106.07447, section 3), centred, so that they say
less of who speaks. The project's own codebook training and tokenizing make them, so they resume
and scale as these do. Two things differ from HuBERT, for trainings of hours instead of weeks:
before round 1 the convolutions learn what a spectrum is, and a later round goes on from the weights
of the one before. An encoder that is there already may be where the first round starts.
"""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from pipeline.cluster.connect import disconnect
from pipeline.settings import (
    EncoderSettings,
    KmeansSettings,
    Recipe,
    Round,
    TokenizeSettings,
)
from pipeline.shards.inputs import Shard
from pipeline.tokenize.job import open_output, tokenize
from pipeline.training.crops import Crops
from pipeline.training.train_kmeans import train_tokenizer
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.config import MFCCConfig
from tokenizer.encoder.pretraining import MaskedPrediction
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.loop import TrainingSettings, train

# Frames a code that the labels' k-means is fitted to.
FRAMES_PER_CODE = 500
# The convolutions alone bear a higher learning rate.
SPECTRUM_RATE = 1.5


def check_output(output: Folder, config: WavLMConfig, recipe: Recipe, shards: list[Shard]) -> None:
    """Write OUTPUT/run.json, or compare with the one there. Raises UsageError if it differs."""
    record = {
        "encoder": config.to_diff_dict(),
        **asdict(recipe),
        "shards": sorted(shard.name for shard in shards),
    }
    output.claim_run("run.json", record)


def train_encoder(
    shards: list[Shard],
    noises: list[Shard],
    output: Folder,
    config: WavLMConfig,
    recipe: Recipe,
    training: TrainingSettings,
    encoding: EncoderSettings,
    start: Path | None = None,
) -> dict[str, str]:
    """Do what is missing of all rounds; the encoder ends in OUTPUT/encoder, in half precision.

    start: a local copy of recipe.start.
    OUTPUT/roundN holds tokenizer/, labels/ (the tokens of all shards), the checkpoint, log.jsonl
    and encoder/. Returns {shard: why} of shards of which labels could not be made; then training
    did not start. Raises TrainingFailed, and UsageError where there is less audio than codes.
    """
    before = Folder(str(start)) if start else None
    for number, this in enumerate(recipe.rounds, start=1):
        folder = output.below(f"round{number}")
        if folder.read_text("encoder/config.json") is None:
            failed = _make_labels(
                shards, folder, before=before, this=this, encoding=encoding, recipe=recipe
            )
            if failed:
                return failed
            disconnect()
            model = MaskedPrediction(config, this.codes, seed=recipe.seed + number)
            if before is not None:
                local = fetch_folder(before.url, "an encoder")
                model.load_encoder(WavLMModel.from_pretrained(local, dtype=torch.float32))
            if recipe.keep_layers:
                model.keep(recipe.keep_layers)

            def crops(step: int, number=number, folder=folder) -> Crops:
                seed = [recipe.seed, number, step]
                return Crops(
                    shards, folder.below("labels"), noises=noises, settings=recipe.crops, seed=seed
                )

            def spectra(waves, masked, labels, model=model):
                return model.spectrum_loss(waves), {}

            def labels(*batch, model=model, weight=this.heard_weight):
                return model(*batch, weight)

            if before is None and recipe.spectrum_steps:
                rate = SPECTRUM_RATE * training.learning_rate
                settings = replace(training, steps=recipe.spectrum_steps, learning_rate=rate)
                train(
                    model,
                    spectra,
                    batches=crops,
                    settings=settings,
                    folder=folder.below("spectra"),
                    name="spectra",
                )
            name = f"round {number} of {len(recipe.rounds)}"
            train(
                model,
                labels,
                batches=crops,
                settings=replace(training, steps=this.steps),
                folder=folder,
                name=name,
            )
            save_encoder(model.encoder(), folder.below("encoder"), torch.float32)
            folder.below("spectra").sweep()
            folder.sweep()
        before = folder.below("encoder")
    if output.read_text("encoder/config.json") is None:
        local = fetch_folder(before.url, "an encoder")
        save_encoder(WavLMModel.from_pretrained(local), output.below("encoder"), torch.float16)
    output.sweep()
    return {}


def _make_labels(
    shards: list[Shard],
    folder: Folder,
    before: Folder | None,
    this: Round,
    encoding: EncoderSettings,
    recipe: Recipe,
) -> dict[str, str]:
    """folder/tokenizer and folder/labels, for what is missing of them. Returns failed shards."""
    settings = TokenizeSettings(precision=recipe.precision)
    tokenizer = folder.below("tokenizer")
    if tokenizer.read_text("config.json") is None:
        if before is None:
            files = TokenizerFiles(MFCCConfig(standardize=True), "l2", {})
        else:
            local = fetch_folder(before.url, "an encoder")
            encoder, weights = read_encoder(local, this.layer)
            files = TokenizerFiles(encoder, "l2", {f"encoder.{k}": v for k, v in weights.items()})
        frames = FRAMES_PER_CODE * this.codes
        # MFCCs are standardised anyway.
        center = before is not None
        whiten = recipe.whiten if center else 0
        kmeans = KmeansSettings(
            codebook_size=this.codes,
            metric="l2",
            max_frames=frames,
            iterations=25,
            seed=recipe.seed,
            center=center,
            whiten=whiten,
        )
        done = train_tokenizer(
            shards,
            tokenizer,
            files=files,
            settings=kmeans,
            encoding=settings,
            encoder_settings=encoding,
        )
        if done["failed"]:
            return done["failed"]
    files = TokenizerFiles.read(fetch_folder(tokenizer.url, "a tokenizer"))
    root = ""  # the shards' names, which run.json holds, are enough to know them by
    labels = open_output(
        folder.below("labels").url, files, source=tokenizer.url, settings=settings, inputs_root=root
    )
    return tokenize(shards, labels, encoding)["failed"]


def save_encoder(wavlm: WavLMModel, folder: Folder, dtype: torch.dtype) -> None:
    """Write a WavLMModel as `transformers` reads it, its weights in `dtype`.

    config.json says float32 all the same, so that whoever loads it computes in that.
    """
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        wavlm.float().cpu().save_pretrained(scratch)
        weights = Path(scratch) / "model.safetensors"
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, {"format": "pt"})
        Wav2Vec2FeatureExtractor(
            sampling_rate=SAMPLE_RATE, do_normalize=True, return_attention_mask=True
        ).save_pretrained(scratch)
        # The configuration last: a folder without one is no encoder.
        for name in ("model.safetensors", "preprocessor_config.json", "config.json"):
            folder.publish(Path(scratch) / name, name)
    folder.sweep()
