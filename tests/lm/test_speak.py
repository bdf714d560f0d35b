"""Sound of continuations at a vocoder's own rate: streamed, and in the files of the job."""

from dataclasses import replace

import numpy as np
import soundfile
import torch
from lm_models import CODES, causal_files, small_lm, speech

from lm.continuation import ContinuationSettings, continue_prompts
from lm.generation import Generator
from lm.prompts import Prompt
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.storage.folder import Folder
from tokenizer.tokenizer import Tokenizer


def test_sound_at_24_khz_comes_in_whole_chunks(tmp_path):
    files = causal_files(tmp_path)
    assert files.codebook_size == CODES
    torch.manual_seed(2)
    shape = {"head": "linear", "samples_per_frame": 480, "margin": 0, "limiter": False}
    vocoder = Vocoder(VocoderConfig(width=files.width, hidden=16, layers=1, causal=True, **shape))
    files = replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())
    generator, tokenizer, prompt = Generator(small_lm()), Tokenizer(files), speech(18, seed=1)
    (tokens,) = generator.generate([prompt], 43, [3])
    pieces = list(generator.speak(tokenizer, prompt, 43, seed=3))
    # The prompt's last chunk of 4 ends after 2 tokens of the continuation's 43; the last token
    # waits for a chunk that does not come.
    assert [len(piece) for piece in pieces] == [2 * 480, *[4 * 480] * 10, 0, 480]
    expected = tokenizer.decode(np.concatenate([prompt, tokens]))[18 * 480 :]
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-5)

    continue_prompts(
        generator,
        [Prompt(key="voice", tokens=prompt, url="voice.wav")],
        settings=ContinuationSettings(tokens=8),
        output=Folder(str(tmp_path / "continued")),
        decoding=tokenizer.decoding,
    )
    for name, count in (("voice.wav", 8), ("voice.joined.wav", 26)):
        info = soundfile.info(tmp_path / "continued" / name)
        assert (info.samplerate, info.frames) == (24_000, 480 * count)
