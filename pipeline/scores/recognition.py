"""Speech → text: by Whisper, by CTC on wav2vec 2.0, HuBERT or WavLM, or by PocketSphinx.

The first two run in transformers. Decoding is greedy and in fp32 there, so that the same speech
gives the same words.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.scores import sphinx
from pipeline.scores.model_folders import ModelFolder, find_model
from pipeline.scores.unscored import needed
from pipeline.scores.word_errors import check_english, text_normalizer
from tokenizer.audio.frames import FRAMES_PER_SECOND, RECEPTIVE_FIELD, SAMPLE_RATE
from tokenizer.audio.windows import Windowing
from tokenizer.errors import UsageError

WHISPER = "WhisperForConditionalGeneration"
CTC = ("HubertForCTC", "Wav2Vec2ForCTC", "WavLMForCTC")
# CTC models hear longer speech in windows of this length, which overlap by twice the context.
WINDOW_SECONDS, CONTEXT_SECONDS = 30, 2


class Recognizer:
    """A recogniser of speech. name: its own, with its class and the version of its package.

    normalize: texts as they are compared.
    """

    def __init__(
        self, source: str, *, device: str = "cpu", language: str = "en", batch_size: int = 8
    ) -> None:
        """source: a folder, a URL or a hub id, or "pocketsphinx". language: as Whisper names it.

        batch_size: utterances that go through the model at once. Raises UsageError for a model of
        another class, one that does not load, and a language that it does not know.
        """
        self.batch_size = batch_size
        self.model: _Whisper | _CTC | sphinx.Sphinx
        if source == sphinx.NAME:
            self.model = sphinx.Sphinx(language)
            self.name, self.normalize = self.model.name, text_normalizer(language)
            return
        version = needed("transformers", "transformers")
        folder = find_model(
            source, "a speech recogniser", (WHISPER, *CTC), example="openai/whisper-small"
        )
        self.normalize = text_normalizer(language, folder.path)
        self.name = f"{folder.name} ({folder.architecture}), {version}"
        kind = _Whisper if folder.architecture == WHISPER else _CTC
        self.model = kind(folder, device, language)

    def texts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """What is said in each of (n,) float waveforms at 16 kHz, as the model writes it.

        What is too short for one frame of the model says nothing: "".
        """
        texts = [""] * len(waves)
        heard = [place for place, wave in enumerate(waves) if len(wave) >= RECEPTIVE_FIELD]
        # Those of one length together, so that little of a batch is padding.
        heard.sort(key=lambda place: len(waves[place]))
        for start in range(0, len(heard), self.batch_size):
            places = heard[start : start + self.batch_size]
            batch = [np.asarray(waves[place], np.float32) for place in places]
            for place, text in zip(places, self.model.texts(batch), strict=True):
                texts[place] = text.strip()
        return texts


class _Whisper:
    """Whisper hears 30 s at a time; longer speech is heard segment after segment.

    Where the next segment begins is what the model's own timestamps say (arXiv 2212.04356, 3.8).
    """

    def __init__(self, folder: ModelFolder, device: str, language: str) -> None:
        from transformers import WhisperFeatureExtractor, WhisperTokenizer

        self.model, self.device = folder.load(device), device
        self.features = folder.part(WhisperFeatureExtractor, "feature extractor")
        self.tokenizer = folder.part(WhisperTokenizer, "tokenizer")
        self.options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        made = self.model.generation_config
        # A model of English alone takes no language.
        if getattr(made, "is_multilingual", False):
            self.options |= {"language": _known_language(language, made), "task": "transcribe"}
        else:
            check_english(language, folder.name)

    @torch.inference_mode()
    def texts(self, waves: list[np.ndarray]) -> list[str]:
        most = self.features.n_samples
        short = [wave for wave in waves if len(wave) <= most]
        texts = iter(self._generated(short) if short else [])
        return [
            next(texts) if len(wave) <= most else self._generated([wave], is_long=True)[0]
            for wave in waves
        ]

    def _generated(self, waves: list[np.ndarray], is_long: bool = False) -> list[str]:
        whole: dict[str, Any] = {"truncation": False, "padding": "longest"} if is_long else {}
        heard = self.features(
            waves,
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            return_attention_mask=True,
            **whole,
        )
        more: dict[str, Any] = {"return_timestamps": True} if is_long else {}
        tokens = self.model.generate(**heard.to(self.device), **self.options, **more)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def _known_language(language: str, made: Any) -> str:
    """A language as Whisper takes it. made: the model's generation config."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    known = sorted(token.strip("<|>") for token in getattr(made, "lang_to_id", {}))
    if code not in known:
        raise UsageError(
            "the recogniser does not know it",
            f"give one of {', '.join(known)}",
            value=language,
            argument="language",
        )
    return code


class _CTC:
    """A frame of 20 ms has a character or none; the likeliest of each frame make the text."""

    def __init__(self, folder: ModelFolder, device: str, language: str) -> None:
        from transformers import AutoFeatureExtractor, AutoTokenizer

        self.features = folder.part(AutoFeatureExtractor, "feature extractor")
        self.tokenizer = folder.part(AutoTokenizer, "tokenizer")
        self.model, self.device = folder.load(device), device
        if int(np.prod(self.model.config.conv_stride)) * FRAMES_PER_SECOND != SAMPLE_RATE:
            raise UsageError(
                f"its convolutions have strides of {self.model.config.conv_stride}",
                "give a model whose frames are 20 ms",
                value=folder.name,
            )
        self.windowing = Windowing.of_seconds(
            window_seconds=WINDOW_SECONDS, context_seconds=CONTEXT_SECONDS, normalize=False
        )

    @torch.inference_mode()
    def texts(self, waves: list[np.ndarray]) -> list[str]:
        most = self.windowing.samples
        together = takes_padding(self.features)
        short = [wave for wave in waves if len(wave) <= most] if together else []
        texts = iter(self._decoded(self._logits(short)) if short else [])
        return [
            next(texts) if together and len(wave) <= most else self._text(wave) for wave in waves
        ]

    def _text(self, wave: np.ndarray) -> str:
        """Of one utterance of any length. It is normalised whole, as in one pass."""
        if len(wave) <= self.windowing.samples:
            return self._decoded(self._logits([wave]))[0]
        given = self.features([wave], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return self._decoded([np.concatenate(list(self._windows(given["input_values"])))])[0]

    def _windows(self, values: torch.Tensor) -> Iterator[np.ndarray]:
        frames = 1 + (values.shape[1] - RECEPTIVE_FIELD) // (SAMPLE_RATE // FRAMES_PER_SECOND)
        for window in self.windowing.plan(frames):
            step = SAMPLE_RATE // FRAMES_PER_SECOND
            last = (window.stop - 1) * step + RECEPTIVE_FIELD
            part = values[:, window.start * step : last].to(self.device)
            yield self.model(part).logits[0].argmax(-1).cpu().numpy()[window.kept]

    def _logits(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """The likeliest of each frame, of utterances of one window."""
        given = self.features(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True)
        likeliest = self.model(**given.to(self.device)).logits.argmax(-1).cpu().numpy()
        lengths = self.model._get_feat_extract_output_lengths(
            torch.tensor([len(wave) for wave in waves])
        )
        return [row[: int(length)] for row, length in zip(likeliest, lengths, strict=True)]

    def _decoded(self, likeliest: list[np.ndarray]) -> list[str]:
        return self.tokenizer.batch_decode(likeliest)


def takes_padding(features: Any) -> bool:
    """Whether utterances of other lengths may share a batch. features: a feature extractor.

    Models with group norm over time, which are trained without an attention mask, hear padding.
    """
    return bool(getattr(features, "return_attention_mask", False))
