"""Audio shards → a tokenizer folder, its codebook distilled from WavLM.

Three steps, each of which goes on where a kill left it: compressor and decompressor learn to pass
features on with no codebook between them; FAISS clusters their latents; with that codebook all
three learn together. For a causal tokenizer another comes first, in which the encoder becomes
causal: what it gives then goes in, and what the bidirectional one gives is asked for. Training is
Ray Train's: one process for each GPU, or one on the CPU.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ray.actor import ActorHandle
from safetensors.torch import load_file, save_file
from torch import distributed
from transformers import WavLMModel

from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter
from pipeline.settings import CropSettings, DistillSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.causal_encoder import causal_form, learn_causal
from pipeline.training.crops import Crops
from pipeline.training.kmeans import train_kmeans
from pipeline.training.launch import run_in_processes, this_rank
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.distillation import Distillation, Unquantised, UpperLayers
from tokenizer.codec.quantizers import BinarySpherical, LearnedCodebook, nearest
from tokenizer.encoder.wavlm import WavLM
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import PRECISIONS
from tokenizer.training.loop import TrainingSettings, train

KMEANS_ITERATIONS = 25
# Batches whose features tell the mean and scale of all.
BATCHES_FOR_SCALE = 8
# Steps between two looks for codes that are out of use.
RESTART_EVERY = 50
# What a row needs around it is in the row: nothing is done to the sound.
UNCHANGED = {"mask_share": 0.1, "mask_span": 1, "speed": 0, "rooms": 0, "mixing": 0, "noise": 0}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """All that a training process is told; travels to it by Ray."""

    shards: list[Shard]
    output: str
    encoder: Path
    files: TokenizerFiles
    settings: DistillSettings
    training: TrainingSettings
    board: ActorHandle


def distill(
    shards: list[Shard],
    output: Folder,
    encoder: Path,
    files: TokenizerFiles,
    settings: DistillSettings,
    training: TrainingSettings,
    workers: int,
) -> dict:
    """Train, and write the tokenizer to `output`; run again after a kill to go on.

    encoder: the WavLM's local folder, for its upper layers; files: the encoder up to its layer.
    Returns the last line of the log. Raises UsageError when OUTPUT holds another run, and
    TrainingFailed when a training process ends in an error.
    """
    names = sorted(shard.name for shard in shards)
    record = {"encoder": files.encoder.to_dict(), **asdict(settings), "shards": names}
    more = {"precision": training.precision, "workers": workers}
    output.claim_run("training/run.json", {**record, **more})
    connect()

    def make_run(board: ActorHandle) -> _Run:
        return _Run(
            shards=shards,
            output=output.url,
            encoder=encoder,
            files=files,
            settings=settings,
            training=training,
            board=board,
        )

    run_in_processes(
        "distill", _train_in_process, make_run=make_run, device=training.device, workers=workers
    )
    log = (output.read_text("training/distill/log.jsonl") or "").splitlines()
    return json.loads(log[-1])


def check_speech(shards: list[Shard], tokens: int, frames_per_token: int) -> None:
    """Raises UsageError unless the shards have so many tokens; reads no more than it must."""
    found = 0
    for shard in shards:
        with open_shard(shard) as stream:
            for _, utterance, _ in read_utterances(stream, 0):
                if utterance is not None:
                    found += -(-utterance.num_frames // frames_per_token)
                if found >= tokens:
                    return
    raise UsageError(
        f"as many tokens are needed to fit it, and the input has {found:,}",
        "give more speech or lower it",
        value=tokens,
        argument="codebook_size",
    )


def _train_in_process(config: dict) -> None:
    run: _Run = config["run"]
    settings, training = run.settings, run.training
    folder = Folder(run.output).below("training")
    rank = this_rank()
    first = rank == 0
    device = torch.device(training.device)
    weights = {k.removeprefix("encoder."): v for k, v in run.files.weights.items()}
    lower = WavLM(run.files.encoder, weights, device=device, dtype=PRECISIONS[training.precision])
    upper = UpperLayers(WavLMModel.from_pretrained(run.encoder), run.files.encoder.layer).to(device)
    crop = CropSettings(rows=settings.rows, frames=settings.frames, channels=0, **UNCHANGED)

    def crops(step: int, part: int = 0) -> Crops:
        return Crops(
            run.shards, None, noises=[], settings=crop, seed=[settings.seed, part, rank, step]
        )

    # An encoder that normalises nothing is given speech at a usual level.
    level = 1.0 if run.files.encoder.normalize else LEVEL

    def features(waves: torch.Tensor) -> torch.Tensor:
        # Out of inference mode, so that gradients can pass.
        return torch.stack([rows.float().clone() for rows in lower(list(level * waves))])

    mean, scale = _moments(folder, crops, features=features, first=first)
    show, heard = Reporter(run.board), features
    if settings.encoder_steps:
        torch.manual_seed(settings.seed)
        own, place = replace(training, steps=settings.encoder_steps), folder.below("encoder")
        learned, heard = learn_causal(
            run.encoder,
            run.files.encoder,
            weights=weights,
            mean=mean,
            features=features,
            batches=crops,
            training=own,
            folder=place,
            show=show,
        )
        run.files.encoder = causal_form(run.files.encoder)
        run.files.weights.update({f"encoder.{name}": weight for name, weight in learned.items()})
    torch.manual_seed(settings.seed)
    model = Distillation(
        settings.focal, Unquantised(), mean=mean, scale=scale, weights=settings.weights
    )

    def objective(waves, *_):
        wanted = features(waves)
        return model(wanted, upper, heard(waves) if settings.encoder_steps else wanted)

    if settings.warm_up:
        own = replace(training, steps=settings.warm_up)
        train(
            model,
            objective,
            batches=crops,
            settings=own,
            folder=folder.below("warm-up"),
            name="warm-up",
            show=show,
        )
    after = None
    if settings.quantizer == "bsq":
        model.quantizer = BinarySpherical(settings.focal.latent)
    else:
        codes = _codes(
            folder, model, crops=crops, features=heard, settings=settings, first=first, show=show
        )
        model.quantizer = LearnedCodebook(codes)
        after = _Restarts(model.quantizer, settings.seed)
    train(
        model,
        objective,
        batches=crops,
        settings=training,
        folder=folder.below("distill"),
        name="distill",
        after_step=after,
        show=show,
    )
    if first:
        _write(run, model)


def _moments(folder: Folder, crops, features, first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(D,) mean of the features, and () their spread around it; the same for all processes."""
    if first and not folder.fs.exists(folder.path("moments.safetensors")):
        batches = iter(crops(0, 1))
        rows = [features(next(batches)[0]).flatten(0, 1).cpu() for _ in range(BATCHES_FOR_SCALE)]
        rows = torch.cat(rows)
        moments = {"mean": rows.mean(0), "scale": rows.std(0).square().mean().sqrt()}
        _publish(folder, moments, "moments.safetensors")
    moments = _read_when_there(folder, "moments.safetensors")
    return moments["mean"], moments["scale"]


def _codes(folder: Folder, model, crops, features, settings, first: bool, show) -> torch.Tensor:
    """FAISS's centroids of the latents that the compressor gives now. (K, latent)."""
    if first and not folder.fs.exists(folder.path("kmeans.safetensors")):
        batches, rows, count = iter(crops(0, 2)), [], 0
        model.eval()
        device = model.mean.device
        while count < settings.kmeans_frames:
            with torch.no_grad():
                latents = model.latents(features(next(batches)[0].to(device))).flatten(0, 1)
            rows.append(latents.float().cpu().numpy())
            count += len(latents)
            show("latents", min(count, settings.kmeans_frames), settings.kmeans_frames, "for FAISS")
        matrix = np.concatenate(rows)
        codes, _ = train_kmeans(
            matrix,
            settings.codebook_size,
            metric="l2",
            seed=settings.seed,
            iterations=KMEANS_ITERATIONS,
        )
        _publish(folder, {"codes": torch.from_numpy(codes)}, "kmeans.safetensors")
    return _read_when_there(folder, "kmeans.safetensors")["codes"]


class _Restarts:
    """Sets codes that have gone out of use to FAISS centroids of latents that are far from any."""

    def __init__(self, codebook: LearnedCodebook, seed: int) -> None:
        self.codebook, self.seed = codebook, seed

    def __call__(self, step: int) -> None:
        """After a step of training."""
        if step % RESTART_EVERY:
            return
        codebook = self.codebook
        if this_rank() == 0:
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
        codes, _ = train_kmeans(far, len(unused), metric="l2", seed=self.seed + step, iterations=5)
        self.codebook.restart(unused, torch.from_numpy(codes))


def _publish(folder: Folder, tensors: dict[str, torch.Tensor], name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        save_file(tensors, Path(scratch) / name)
        folder.publish(Path(scratch) / name, name)


def _read_when_there(folder: Folder, name: str) -> dict[str, torch.Tensor]:
    if distributed.is_initialized():
        distributed.barrier()
    with tempfile.TemporaryDirectory() as scratch:
        folder.fs.get_file(folder.path(name), str(Path(scratch) / name))
        return load_file(Path(scratch) / name)


def _write(run: _Run, model: Distillation) -> None:
    """The tokenizer, its configuration last: a folder without one is no tokenizer."""
    files, output = run.files, Folder(run.output)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    for name, value in state.items():
        part = name.partition(".")[0]
        if part in ("compressor", "decompressor"):
            files.weights[name] = value.to(files.storage_dtype)
    files.weights["features.mean"], files.weights["features.scale"] = state["mean"], state["scale"]
    files.weights["codebook.codes"] = model.quantizer.codes.detach().cpu().clone()
    files.compressor = run.settings.focal
    with tempfile.TemporaryDirectory() as scratch:
        files.save(Path(scratch))
        for name in ("model.safetensors", "config.json"):
            output.publish(Path(scratch) / name, name)
    training = output.below("training")
    for folder in (output, training, *map(training.below, ("encoder", "warm-up", "distill"))):
        folder.sweep()
