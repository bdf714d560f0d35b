"""The stages of a distillation, as one training process goes through them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ray.actor import ActorHandle
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from transformers import WavLMModel

from pipeline.cluster.progress import Reporter
from pipeline.settings import CropSettings, DistillSettings
from pipeline.shards.inputs import Shard
from pipeline.training.causal_encoder import Features, causal_form, train_causal_encoder
from pipeline.training.crop_training import train_on_crops
from pipeline.training.crops import UNCHANGED_SOUND, Crops
from pipeline.training.kmeans import train_kmeans
from pipeline.training.levels import RAW_GAIN, at_random_levels, raw_form
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.distillation import Distillation, Unquantised, UpperLayers
from tokenizer.codec.quantizers import BinarySpherical, LearnedCodebook, nearest
from tokenizer.config import EncoderConfig
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.file_stream import copy_whole
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import PRECISIONS
from tokenizer.training.processes import process_rank
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

KMEANS_ITERATIONS = 25
# Batches from which the features' mean and scale are measured.
BATCHES_FOR_SCALE = 8
# Steps between two searches for unused codes.
RESTART_EVERY = 50
# The folders of the stages that train, and a number for the crops that each stage draws.
ENCODER, WARM_UP, DISTILL = "encoder", "warm-up", "distill"
STREAMS = {DISTILL: 0, "moments": 1, "kmeans": 2, ENCODER: 3, WARM_UP: 4}


@dataclass(frozen=True, kw_only=True)
class DistillRun:
    """Everything that a training process needs; Ray sends it there."""

    shards: list[Shard]
    output: str
    encoder: Path
    files: TokenizerFiles
    settings: DistillSettings
    training: TrainingSettings
    runtime: RuntimeSettings
    board: ActorHandle


def distill_in_process(config: dict) -> None:
    """All stages, in one training process. config: {"run": a DistillRun}."""
    _Distiller(config["run"]).run_stages()


class _Distiller:
    """The stages of a distillation, with what they share."""

    def __init__(self, run: DistillRun) -> None:
        self.run, self.settings = run, run.settings
        self.folder = Folder(run.output).below("training")
        self.show = Reporter(run.board)
        self.device = torch.device(run.runtime.device)
        dtype = PRECISIONS[run.training.precision]
        assert isinstance(run.files.encoder, EncoderConfig)
        self.config = run.files.encoder
        self.weights = {k.removeprefix("encoder."): v for k, v in run.files.weights.items()}
        self.lower = WavLM(self.config, self.weights, device=self.device, dtype=dtype)
        wavlm = WavLMModel.from_pretrained(run.encoder)
        self.upper = UpperLayers(wavlm, self.config.layer).to(self.device)
        # An encoder that does not normalise expects speech at the nominal level.
        self.level = 1.0 if self.config.normalize else LEVEL

    def run_stages(self) -> None:
        """Train what is missing, and write the tokenizer."""
        settings, files = self.settings, self.run.files
        mean, scale = self._moments()
        inputs: Features | None = None
        if settings.raw_input:
            files.encoder, raw = raw_form(self.config, self.weights)
            files.weights.update({f"encoder.{name}": weight for name, weight in raw.items()})
            inputs = self._raw_features(files.encoder, raw)
        if settings.encoder_steps:
            torch.manual_seed(settings.seed)
            trained, inputs = train_causal_encoder(
                self.run.encoder,
                self.config,
                self.weights,
                replicate_padding=settings.replicate_padding,
                mean=mean,
                features=self.features,
                crops=self._crops(ENCODER),
                settings=replace(self.run.training, steps=settings.encoder_steps),
                runtime=self.run.runtime,
                folder=self.folder.below(ENCODER),
                show=self.show,
            )
            files.encoder = causal_form(self.config, settings.replicate_padding)
            files.weights.update({f"encoder.{name}": weight for name, weight in trained.items()})
        torch.manual_seed(settings.seed)
        model = Distillation(
            settings.focal, Unquantised(), mean=mean, scale=scale, weights=settings.weights
        )
        if settings.warm_up:
            self._train(model, WARM_UP, settings.warm_up, inputs=inputs)
        restarts = None
        if settings.quantizer == "bsq":
            model.quantizer = BinarySpherical(settings.focal.latent)
        else:
            codebook = LearnedCodebook(self._kmeans_codes(model, inputs))
            model.quantizer, restarts = codebook, _Restarts(codebook, settings.seed)
        self._train(model, DISTILL, settings.steps, inputs=inputs, after_step=restarts)
        if process_rank() == 0:
            _write(self.run, model)

    def features(self, waves: Tensor) -> Tensor:
        """Waves (B, n) of unit variance → the bidirectional encoder's features (B, T, D)."""
        return _rows(self.lower, self.level * waves)

    def _raw_features(self, config: EncoderConfig, weights: dict[str, Tensor]) -> Features:
        """The features of a bidirectional encoder for raw audio, at random levels."""
        encoder = WavLM(config, weights, device=self.device, dtype=self.lower.dtype)
        gain = RAW_GAIN if self.config.normalize else 1 / LEVEL
        return lambda waves: _rows(encoder, at_random_levels(waves, gain))

    def _crops(self, stream: str) -> Crops:
        """What a stage reads: rows in which the sound is not changed."""
        settings = self.settings
        crop = CropSettings(
            rows=settings.rows,
            frames=settings.frames,
            mask_share=0.1,
            mask_span=1,
            **UNCHANGED_SOUND,
        )
        seed = [settings.seed, STREAMS[stream], process_rank()]
        return Crops(self.run.shards, None, noises=[], settings=crop, seed=seed)

    def _train(
        self,
        model: Distillation,
        stage: str,
        steps: int,
        *,
        inputs: Features | None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        """One stage. inputs: the features of which tokens are made; None takes `features`."""

        def objective(waves: Tensor, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            wanted = self.features(waves)
            return model(wanted, self.upper, inputs(waves) if inputs else wanted)

        train_on_crops(
            model,
            objective,
            self._crops(stage),
            muon=model.matrices(),
            settings=replace(self.run.training, steps=steps),
            runtime=self.run.runtime,
            folder=self.folder.below(stage),
            name=stage,
            show=self.show,
            buffers=("quantizer.",),
            after_step=after_step,
        )

    def _moments(self) -> tuple[Tensor, Tensor]:
        """(D,) mean of the features and () their spread around it; the same in all processes."""

        def measure() -> dict[str, Tensor]:
            batches = self._crops("moments").batches()
            parts = [self.features(next(batches)[0]).cpu() for _ in range(BATCHES_FOR_SCALE)]
            rows = torch.cat([part.flatten(0, 1) for part in parts])
            return {"mean": rows.mean(0), "scale": rows.std(0).square().mean().sqrt()}

        moments = _made_once(self.folder, "moments.safetensors", measure)
        return moments["mean"], moments["scale"]

    def _kmeans_codes(self, model: Distillation, inputs: Features | None) -> Tensor:
        """(K, latent): FAISS's centroids of the latents that the compressor gives now."""

        def cluster() -> dict[str, Tensor]:
            settings = self.settings
            wanted = settings.kmeans_frames
            batches = self._crops("kmeans").batches()
            parts: list[np.ndarray] = []
            count = 0
            model.eval().to(self.device)
            torch.manual_seed(settings.seed)  # raw audio is of random levels
            features = inputs or self.features
            while count < wanted:
                with torch.no_grad():
                    waves = next(batches)[0].to(self.device)
                    latents = model.latents(features(waves)).flatten(0, 1)
                parts.append(latents.float().cpu().numpy())
                count += len(latents)
                self.show("latents", min(count, wanted), wanted, "for FAISS")
            codes, _ = train_kmeans(
                np.concatenate(parts),
                settings.codebook_size,
                metric="l2",
                seed=settings.seed,
                iterations=KMEANS_ITERATIONS,
            )
            return {"codes": torch.from_numpy(codes)}

        return _made_once(self.folder, "kmeans.safetensors", cluster)["codes"]


def _rows(encoder: WavLM, waves: Tensor) -> Tensor:
    """Waves (B, n) as an encoder gets them → its features (B, T, D)."""
    # Cloned out of inference mode, so that gradients can pass.
    return torch.stack([rows.float().clone() for rows in encoder(list(waves))])


class _Restarts:
    """Replaces unused codes by FAISS centroids of the latents that are farthest from any code."""

    def __init__(self, codebook: LearnedCodebook, seed: int) -> None:
        self.codebook, self.seed = codebook, seed

    def __call__(self, step: int) -> None:
        """After a training step."""
        if step % RESTART_EVERY:
            return
        codebook = self.codebook
        if process_rank() == 0:
            self._restart(step)
        if distributed.is_initialized():
            for buffer in (codebook.codes, codebook.sums, codebook.counts):
                distributed.broadcast(buffer, 0)

    def _restart(self, step: int) -> None:
        unused, recent = self.codebook.unused(), self.codebook.recent()
        if len(unused) == 0 or len(recent) < 4 * len(unused):
            return
        codes = self.codebook.codes
        distance = (recent - codes[nearest(recent, codes)]).square().sum(1)
        far = recent[distance.topk(len(recent) // 4).indices].cpu().numpy()
        centroids, _ = train_kmeans(
            far, len(unused), metric="l2", seed=self.seed + step, iterations=5
        )
        self.codebook.restart(unused, torch.from_numpy(centroids))


def _made_once(
    folder: Folder, name: str, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a file that the first process makes, unless an earlier run did."""
    if process_rank() == 0 and not folder.fs.exists(folder.path(name)):
        tensors = make()
        with scratch_folder() as scratch:
            save_file(tensors, scratch / name)
            folder.publish(scratch / name, name)
    if distributed.is_initialized():
        distributed.barrier()
    with scratch_folder() as scratch:
        copy_whole(folder.fs, folder.path(name), scratch / name)
        return load_file(scratch / name)


def _write(run: DistillRun, model: Distillation) -> None:
    """Publish the tokenizer."""
    files, output = run.files, Folder(run.output)
    assert isinstance(model.quantizer, LearnedCodebook | BinarySpherical)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if name.partition(".")[0] in ("compressor", "decompressor"):
            files.weights[name] = value.to(files.storage_dtype)
    files.weights["features.mean"], files.weights["features.scale"] = state["mean"], state["scale"]
    files.weights["codebook.codes"] = model.quantizer.codes.detach().cpu().clone()
    files.compressor = run.settings.focal
    with scratch_folder() as scratch:
        files.save(scratch)
        output.publish_folder(scratch)
    training = output.below("training")
    for folder in (output, training, *map(training.below, (ENCODER, WARM_UP, DISTILL))):
        folder.sweep()
