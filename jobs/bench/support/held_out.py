"""Speech with phone labels on which codes are scored that were fitted to other speakers."""

import numpy as np
import torch

from jobs.cli import flags
from pipeline.evaluation.measures import joint_counts, label_indices, pnmi
from pipeline.evaluation.phone_labels import read_phones
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.lloyd.assignment import Nearest
from tokenizer.tokenizer import Tokenizer


class HeldOut:
    """Speech that codes are scored on. features, phones: of each utterance; phones may be None."""

    def __init__(self, folder: str, phones: str, tokenizer: Tokenizer) -> None:
        """folder: of audio shards. phones: a file of their labels."""
        self.name = folder
        self.labels = flags.named("--phones", read_phones, phones)
        self.features: list[np.ndarray] = []
        self.phones: list[np.ndarray | None] = []
        for shard in flags.named("--held-out", find_shards, [folder])[1]:
            with open_shard(shard) as stream:
                for sample, utterance, _ in read_utterances(stream, keep_samples=1 << 30):
                    if utterance is None or utterance.waveform is None:
                        continue
                    wave = (utterance.waveform - utterance.mean) * utterance.scale
                    self.features += tokenizer.features([wave.astype(np.float32)])
                    self.phones.append(self._phones(sample.key, len(self.features[-1])))

    def _phones(self, key: str, frames: int) -> np.ndarray | None:
        """Of each frame that has one."""
        if key not in self.labels.of_key:
            return None
        milliseconds, phones = self.labels.of_key[key]
        places = label_indices(frames, milliseconds)
        return phones[places[places < len(phones)]]

    def scores(self, codes: np.ndarray) -> tuple[float, float]:
        """Mean squared distance over the features' variance, and PNMI."""
        nearest = Nearest(codes, "l2", None)
        squared = total = 0.0
        joint = np.zeros((len(self.labels.phones), len(codes)), np.int64)
        mean = np.concatenate(self.features).mean(0)
        for features, phones in zip(self.features, self.phones, strict=True):
            found, distances = nearest(torch.from_numpy(features))
            squared += float(distances.double().sum())
            total += float(np.square(features - mean).sum())
            if phones is not None:
                joint += joint_counts(phones, found.numpy()[: len(phones)], joint.shape)
        return squared / total, pnmi(joint)
