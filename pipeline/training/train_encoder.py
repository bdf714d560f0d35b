"""Audio shards → a WavLM, in rounds: k-means labels of all shards, then prediction of masked ones.

The labels of the first round are clusters of MFCCs, those of a later round clusters of the features
that the round before learned (HuBERT, Hsu et al. 2021, arXiv 2106.07447, section 3). Features are
centred, so that labels depend less on the speaker. The project's own codebook training and
tokenizing make the labels, so they resume and scale as these do. Two things differ from HuBERT, for
trainings of hours instead of weeks: before round 1 the convolutions learn to give a spectrum, and a
later round continues from the weights of the round before. The first round may start from an
existing encoder instead.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from pipeline.cluster.connect import disconnect
from pipeline.settings import EncoderSettings, KmeansSettings, Recipe, Round, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.tokenize.job import open_output, tokenize
from pipeline.training.crop_training import train_on_crops
from pipeline.training.crops import Crops
from pipeline.training.train_kmeans import train_tokenizer
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.config import MFCCConfig
from tokenizer.encoder.pretraining import MaskedPrediction
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.checkpoints import check_layout
from tokenizer.training.loop import Show
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# Frames per code to which the labels' k-means is fitted.
FRAMES_PER_CODE = 500
KMEANS_ITERATIONS = 25
# The convolutions alone can be trained with a learning rate this many times as high.
SPECTRUM_RATE_MULTIPLE = 1.5
# The streams of crops of a round.
LABELS_STREAM, SPECTRA_STREAM = 0, 1


def check_output(output: Folder, config: WavLMConfig, recipe: Recipe, shards: list[Shard]) -> None:
    """Write OUTPUT/run.json, or compare with it. Raises UsageError if it is another run's."""
    record = {
        "encoder": config.to_diff_dict(),
        **asdict(recipe),
        "start": public_url(recipe.start) if recipe.start else recipe.start,
        "shards": sorted(shard.name for shard in shards),
    }
    output.claim_run("run.json", record)


@dataclass(frozen=True, kw_only=True)
class EncoderTraining:
    """An encoder's training: its data, its recipe, and where it runs.

    noises: audio shards of noises. encoding: how the labels are made. start: a local copy of
    recipe.start, if that is given.
    """

    shards: list[Shard]
    noises: list[Shard]
    output: Folder
    config: WavLMConfig
    recipe: Recipe
    runtime: RuntimeSettings
    encoding: EncoderSettings
    show: Show
    start: Path | None = None

    def run(self) -> dict[str, str]:
        """Do what is missing of all rounds; the encoder ends in OUTPUT/encoder, in fp16.

        OUTPUT/roundN holds tokenizer/, labels/ (the tokens of all shards), the training's
        checkpoints and log, and encoder/. Returns {shard: why} for shards without labels; if there
        are any, training did not start. Raises TrainingFailed, and UsageError when there is less
        audio than codes.
        """
        output = self.output
        before = Folder(str(self.start)) if self.start else None
        for number, this_round in enumerate(self.recipe.rounds, start=1):
            folder = output.below(f"round{number}")
            if folder.read_text("encoder/config.json") is None:
                for stage in (folder, folder.below("spectra")):
                    check_layout(stage)
                failed = self._make_labels(folder, before=before, this_round=this_round)
                if failed:
                    return failed
                disconnect()
                self._train_round(number, this_round, folder=folder, before=before)
            before = folder.below("encoder")
        if output.read_text("encoder/config.json") is None and before is not None:
            local = fetch_folder(before.url, "an encoder")
            save_encoder(WavLMModel.from_pretrained(local), output.below("encoder"), torch.float16)
        output.sweep()
        return {}

    def _train_round(
        self, number: int, this_round: Round, *, folder: Folder, before: Folder | None
    ) -> None:
        """Train one round, and write its encoder. before: the encoder it starts from."""
        recipe = self.recipe
        model = MaskedPrediction(self.config, this_round.codes, seed=recipe.seed + number)
        if before is not None:
            local = fetch_folder(before.url, "an encoder")
            model.load_encoder(WavLMModel.from_pretrained(local, dtype=torch.float32))
        if recipe.keep_layers:
            model.keep(recipe.keep_layers)
        spectra = folder.below("spectra")

        def spectrum_loss(waves: Tensor, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return model.spectrum_loss(waves), {}

        def masked_loss(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return model(*batch, this_round.heard_weight)

        if before is None and recipe.spectrum_steps:
            train_on_crops(
                model,
                spectrum_loss,
                self._crops(folder, number, SPECTRA_STREAM),
                muon=model.matrices(),
                settings=self._settings(recipe.spectrum_steps, SPECTRUM_RATE_MULTIPLE),
                runtime=self.runtime,
                folder=spectra,
                name="spectra",
                show=self.show,
            )
        train_on_crops(
            model,
            masked_loss,
            self._crops(folder, number, LABELS_STREAM),
            muon=model.matrices(),
            settings=self._settings(this_round.steps, 1.0),
            runtime=self.runtime,
            folder=folder,
            name=f"round {number} of {len(recipe.rounds)}",
            show=self.show,
        )
        save_encoder(model.encoder(), folder.below("encoder"), torch.float32)
        spectra.sweep()
        folder.sweep()

    def _crops(self, folder: Folder, number: int, stream: int) -> Crops:
        recipe = self.recipe
        return Crops(
            self.shards,
            folder.below("labels"),
            noises=self.noises,
            settings=recipe.crops,
            seed=[recipe.seed, number, stream],
        )

    def _settings(self, steps: int, rate_multiple: float) -> TrainingSettings:
        recipe = self.recipe
        return TrainingSettings(
            steps=steps,
            learning_rate=rate_multiple * recipe.learning_rate,
            precision=recipe.precision,
            seed=recipe.seed,
        )

    def _make_labels(
        self, folder: Folder, *, before: Folder | None, this_round: Round
    ) -> dict[str, str]:
        """Make what is missing of folder/tokenizer and folder/labels. Returns failed shards."""
        settings = TokenizeSettings(precision=self.recipe.precision)
        tokenizer = folder.below("tokenizer")
        if tokenizer.read_text("config.json") is None:
            files = _unclustered(before, this_round)
            # MFCCs are standardised anyway.
            center = before is not None
            done = train_tokenizer(
                self.shards,
                tokenizer,
                files=files,
                settings=KmeansSettings(
                    codebook_size=this_round.codes,
                    metric="l2",
                    max_frames=FRAMES_PER_CODE * this_round.codes,
                    iterations=KMEANS_ITERATIONS,
                    seed=self.recipe.seed,
                    center=center,
                    whiten=self.recipe.whiten if center else 0,
                ),
                encoding=settings,
                encoder_settings=self.encoding,
            )
            if done["failed"]:
                return done["failed"]
        files = TokenizerFiles.read(fetch_folder(tokenizer.url, "a tokenizer"))
        root = ""  # the shards' names, which run.json holds, are enough to know them by
        labels = open_output(
            folder.below("labels").url,
            files,
            source=tokenizer.url,
            settings=settings,
            inputs_root=root,
        )
        return tokenize(self.shards, labels, self.encoding)["failed"]


def _unclustered(before: Folder | None, this_round: Round) -> TokenizerFiles:
    """A tokenizer without a codebook: of the encoder before, or of MFCCs."""
    if before is None:
        return TokenizerFiles(MFCCConfig(standardize=True), "l2", {})
    assert this_round.layer is not None
    encoder, weights = read_encoder(fetch_folder(before.url, "an encoder"), this_round.layer)
    return TokenizerFiles(encoder, "l2", {f"encoder.{k}": v for k, v in weights.items()})


def save_encoder(wavlm: WavLMModel, folder: Folder, dtype: torch.dtype) -> None:
    """Write a WavLMModel as `transformers` reads it, its weights in `dtype`.

    config.json says float32 all the same, so that whoever loads it computes in fp32.
    """
    transformers_logging.disable_progress_bar()
    with scratch_folder() as scratch:
        wavlm.float().cpu().save_pretrained(scratch)
        weights = scratch / "model.safetensors"
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, {"format": "pt"})
        Wav2Vec2FeatureExtractor(
            sampling_rate=SAMPLE_RATE, do_normalize=True, return_attention_mask=True
        ).save_pretrained(scratch)
        folder.publish_folder(scratch)
    folder.sweep()
