"""Ten utterances of tests/speech; recognisers and an x-vector model of random weights, saved."""

import json
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from conftest import SPEECH
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances

# Of the transformer in all of them.
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def save_whisper(folder: Path) -> Path:
    """A Whisper that knows English and German, with a byte for a token; it writes letters."""
    special = [
        *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>"),
        *("<|translate|>", "<|transcribe|>", "<|notimestamps|>"),
    ]
    times = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]
    names = [*bytes_to_unicode().values(), *special, *times]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.save_pretrained(folder)
    (folder / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    WhisperFeatureExtractor().save_pretrained(folder)
    start, end = vocabulary["<|startoftranscript|>"], vocabulary["<|endoftext|>"]
    size = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        **size, **heads,
        vocab_size=len(names), encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=64,
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(config)
    # Letters are the likeliest: all else scores 0.
    letters = torch.zeros(len(names), 1)
    letters[[vocabulary[letter] for letter in ascii_lowercase]] = 1
    model.get_input_embeddings().weight.data *= letters
    model.generation_config = GenerationConfig(
        max_length=24,
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        is_multilingual=True,
        lang_to_id={name: vocabulary[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={name: vocabulary[f"<|{name}|>"] for name in ("transcribe", "translate")},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def save_ctc(folder: Path) -> Path:
    """A wav2vec 2.0 with layer norm and a character for a token."""
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    vocabulary = {name: number for number, name in enumerate(letters)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    torch.manual_seed(2)
    config = Wav2Vec2Config(**SHAPE, **norm, vocab_size=len(letters), pad_token_id=0)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def save_x_vector(folder: Path) -> Path:
    """A WavLM with an x-vector head and group norm, as microsoft/wavlm-base-sv has it."""
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    head = {"tdnn_dim": (32, 32, 32, 32, 48), "xvector_output_dim": 24}
    torch.manual_seed(3)
    WavLMForXVector(WavLMConfig(**SHAPE, **head)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with whisper/, ctc/ and x-vector/."""
    folder = tmp_path_factory.mktemp("models")
    save_whisper(folder / "whisper")
    save_ctc(folder / "ctc")
    save_x_vector(folder / "x-vector")
    return folder


@pytest.fixture(scope="session")
def waves():
    """Ten short utterances, (n,) float32 at 16 kHz."""
    (shard,) = find_shards([str(SPEECH / "speech-000000.tar")])[1]
    with open_shard(shard) as stream:
        found = (u.waveform for _, u, _ in read_utterances(stream, 1 << 20) if u)
        return [np.asarray(next(found), np.float32) for _ in range(10)]
