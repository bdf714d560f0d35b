"""A tokenizer's folder: what its files hold, and the check that they belong together.

The folder is `config.json` and `model.safetensors`. It holds the encoder's weights up to its layer,
so that the folder alone makes the same tokens anywhere, without a hub. A tokenizer with a vocoder
has `vocoder.safetensors` too.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenizer.audio.frames import LEFT_PADDING
from tokenizer.codec.compression import check_weights as check_compression
from tokenizer.config import EncoderConfig, FocalConfig, MFCCConfig, VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.storage.encoder_files import check_weights
from tokenizer.storage.json_file import read_object
from tokenizer.storage.vocoder_file import WEIGHTS_FILE, digest_of, read_vocoder, save_vocoder

FORMAT = "wavmill-tokenizer-1"


class TokenizerError(UsageError):
    """A folder that is not a tokenizer; the message says what is wrong with it."""


@dataclass
class TokenizerFiles:
    """The content of a tokenizer's folder.

    encoder: the WavLM's shape, or MFCCs. metric: "l2" or "cosine". weights: "encoder.*" in Hugging
    Face's names, and "codebook.codes" (K, D), once it is trained. With "center" (D,), the mean of
    all speech, features are centred; with "codebook.projection" (P, D) the nearest code is searched
    after that projection. compressor: its shape, of a distilled tokenizer, whose weights also hold
    "features.mean" (D,), "features.scale" (), "compressor.*" and "decompressor.*". made_by: how it
    was trained; no token depends on it. vocoder, vocoder_weights: of the vocoder, if there is one;
    no token depends on them either.
    """

    encoder: EncoderConfig | MFCCConfig
    metric: str
    weights: dict[str, Tensor]
    made_by: dict = field(default_factory=dict)
    compressor: FocalConfig | None = None
    vocoder: VocoderConfig | None = None
    vocoder_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def codebook_size(self) -> int:
        """Number of codes; 0 before the codebook is trained."""
        return len(self.weights.get("codebook.codes", ()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides a token: the configuration and every weight."""
        return digest_of(self.weights, json.dumps(self._decisive(), sort_keys=True))

    def _decisive(self) -> dict:
        codebook = {"size": self.codebook_size, "metric": self.metric}
        decisive = {"format": FORMAT, "encoder": self.encoder.to_dict(), "codebook": codebook}
        if self.compressor:
            decisive["compressor"] = self.compressor.to_dict()
        return decisive

    @property
    def frames_per_token(self) -> int:
        """1, 2 or 4 frames of 20 ms."""
        return self.compressor.frames_per_token if self.compressor else 1

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype to store learned weights in: that of most encoder weights, fp16 or fp32."""
        sizes: Counter[torch.dtype] = Counter()
        for weight in encoder_weights(self.weights).values():
            sizes[weight.dtype] += weight.numel()
        return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)

    @property
    def width(self) -> int:
        """Dimensions D of the features that tokens stand for."""
        return self.compressor.width if self.compressor else self.weights["codebook.codes"].shape[1]

    @property
    def past_and_chunk(self) -> tuple[int, int]:
        """Frames that a causal encoder sees before a chunk, and frames of a chunk; else (0, 1)."""
        encoder = self.encoder
        if isinstance(encoder, MFCCConfig) or not encoder.causal:
            return 0, 1
        return encoder.past_frames, encoder.chunk_frames

    @property
    def left_padding(self) -> int:
        """Copies of its first sample that an utterance gets in front: 399 of replicate padding."""
        encoder = self.encoder
        return (
            LEFT_PADDING if isinstance(encoder, EncoderConfig) and encoder.replicate_padding else 0
        )

    def save(self, folder: Path) -> None:
        """Write config.json and the weights' files; makes the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous() for k, v in self.weights.items()}, folder / "model.safetensors"
        )
        config = {**self._decisive(), "fingerprint": self.fingerprint, "made_by": self.made_by}
        if self.vocoder:
            config["vocoder"] = save_vocoder(folder, self.vocoder, self.vocoder_weights)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFiles":
        """Read a local folder. Raises TokenizerError when it is not a tokenizer's."""
        folder = Path(folder)
        config = read_object(folder / "config.json", TokenizerError)
        if config.get("format") != FORMAT:
            raise TokenizerError(f'its config.json does not say "format": "{FORMAT}"')
        try:
            weights = load_file(folder / "model.safetensors")
            encoder: EncoderConfig | MFCCConfig
            if config["encoder"].get("model_type") == "mfcc":
                encoder = MFCCConfig.from_dict(config["encoder"])
            else:
                encoder = wavlm = EncoderConfig.from_dict(config["encoder"])
                check_weights(wavlm, encoder_weights(weights))
            compressor = config.get("compressor")
            files = cls(
                encoder,
                config["codebook"]["metric"],
                weights,
                made_by=config.get("made_by", {}),
                compressor=FocalConfig.from_dict(compressor) if compressor else None,
            )
            if files.compressor:
                check_compression(files.compressor, weights)
        except (OSError, SafetensorError) as error:
            raise TokenizerError("it has no readable model.safetensors") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokenizerError(
                f"its config.json or its weights lack something: {error}"
            ) from error
        if not files.codebook_size:
            raise TokenizerError("its weights lack codebook.codes")
        for name in ("center", "codebook.projection"):
            weight, codes = files.weights.get(name), files.weights["codebook.codes"]
            if weight is not None and weight.shape[-1:] != codes.shape[1:]:
                raise TokenizerError(f"its {name} and its codes have different dimensions")
        if config.get("fingerprint") != files.fingerprint:
            raise TokenizerError("its weights are not those its config.json was written for")
        if about := config.get("vocoder"):
            try:
                files.vocoder, files.vocoder_weights = read_vocoder(folder, about, files.width)
            except (OSError, SafetensorError) as error:
                raise TokenizerError(f"it has no readable {WEIGHTS_FILE}") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise TokenizerError(f"its vocoder is not {error}") from error
        return files


def encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A tokenizer's weights → its encoder's, in Hugging Face's names."""
    prefix = "encoder."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
