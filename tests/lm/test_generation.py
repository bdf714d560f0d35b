"""Generation: what is kept of the past gives the logits of one full pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lm_models import causal_files, row_of, shaken, small_config, small_lm, speaking, speech

from lm.config import LMError
from lm.generation import Generator, Sampling
from lm.inference import BLOCK
from lm.model import SpeechLM
from tokenizer.errors import UsageError
from tokenizer.tokenizer import Tokenizer

EVERYTHING = Sampling(temperature=1.0, top_k=None, top_p=None)


def lm_of(folder, inputs: str, chunk: int, start: bool = True) -> SpeechLM:
    """With a window that is neither whole chunks nor short."""
    if inputs == "embedding":
        return small_lm(chunk=chunk, window=90, start=start)
    config = small_config(inputs=inputs, chunk=chunk, window=90, start=start)
    torch.manual_seed(0)
    return shaken(SpeechLM.from_tokenizer(config, causal_files(folder)))


@pytest.mark.parametrize(
    ("inputs", "chunk", "start"),
    [
        ("embedding", 1, True),
        ("codes", 4, True),
        ("decompressor", 4, True),
        ("embedding", 3, True),
        ("codes", 4, False),
        ("decompressor", 4, False),
    ],
)
def test_step_by_step_gives_the_logits_of_one_pass(tmp_path, inputs, chunk, start):
    """Past the window many times over, and past the end of the buffer that it moves in."""
    model = lm_of(tmp_path, inputs, chunk=chunk, start=start)
    length = (2 * BLOCK + 150) // chunk * chunk
    own = speech(length, seed=3)
    with torch.no_grad():
        row = row_of([own], chunk, length + chunk * start, start=start)
        full = model(*row)[0].split(chunk)
    lm, chunks = Generator(model).lm, torch.from_numpy(own).split(chunk)
    # Prompts of no chunk (one without START), of some, and of over a block, side by side.
    first = 0 if start else 1
    begun = [first, first, 5, (BLOCK + 50) // chunk]
    logits, state = lm.begin([torch.from_numpy(own[: chunk * place]) for place in begun])
    while begun[-1] < len(chunks):
        expected = torch.stack([full[place - first] for place in begun])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        logits = lm.step(torch.stack([chunks[place] for place in begun]), state)
        begun = [place + 1 for place in begun]
    assert chunk * begun[0] > BLOCK + 90


@pytest.mark.parametrize("inputs", ["embedding", "decompressor"])
def test_a_batch_gives_what_each_prompt_gives_alone(tmp_path, inputs):
    generator = Generator(lm_of(tmp_path, inputs, 4))
    prompts = [speech(n, seed=n) for n in (0, 13, 80, 13, 600)]
    seeds = [5, 6, 7, 8, 9]
    for sampling in (EVERYTHING, Sampling(temperature=0.9, top_k=5, top_p=0.7)):
        together = generator.generate(prompts, 30, seeds, sampling=sampling)
        for prompt, seed, expected in zip(prompts, seeds, together):
            assert expected.shape == (30,)
            (alone,) = generator.generate([prompt], 30, [seed], sampling=sampling)
            assert np.array_equal(alone, expected)
    # Two of one length need no padding, and another seed says something else.
    one, other = generator.generate([prompts[1]] * 2, 30, [6, 7], sampling=EVERYTHING)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, generator.generate(prompts[1:2], 30, [6], sampling=EVERYTHING)[0])


def test_all_of_a_long_prompt_counts():
    """Ten minutes: two layers look back two windows and two chunks; what is before cannot matter.

    A cache that lost the place of a key would show here.
    """
    model = small_lm(window=90)
    lm, prompt = Generator(model).lm, torch.from_numpy(speech(30_000, seed=8))

    def after(tokens: torch.Tensor) -> torch.Tensor:
        return lm.begin([tokens])[0]

    expected = after(prompt)
    torch.testing.assert_close(after(prompt[-400:]), expected, atol=1e-4, rtol=0)
    assert (after(prompt[-88:]) - expected).abs().max() > 1e-2


def test_a_model_without_start_needs_a_chunk_of_prompt(tmp_path):
    generator = Generator(lm_of(tmp_path, "codes", chunk=4, start=False))
    for length in (0, 3):
        with pytest.raises(LMError, match=f"it has {length} tokens.* continues 4 or more"):
            generator.generate([speech(8, seed=0), speech(length, seed=0)], 4, [0, 0])
    assert len(generator.generate([speech(6, seed=0)], 5, [0])[0]) == 5


def test_a_bf16_models_decompressor_runs_in_bf16(tmp_path):
    model = lm_of(tmp_path, "decompressor", chunk=4, start=False)
    prompt = torch.from_numpy(speech(300, seed=2))
    expected, _ = Generator(model).lm.begin([prompt])
    model.encoder.bfloat16()
    model.head.bfloat16()
    lm = Generator(model).lm
    logits, state = lm.begin([prompt])
    assert {past.dtype for layer in state.inputs.state for past in layer} == {torch.bfloat16}
    assert (logits - expected).norm() < 0.1 * expected.norm()


def test_a_prompt_that_ends_within_a_chunk_loses_nothing():
    """What follows is likely by the model's own word: greedy, each token is the likeliest one."""
    model = small_lm(window=90)
    prompt = speech(30, seed=4)
    (tokens,) = Generator(model).generate([prompt], 31, [0], sampling=Sampling(temperature=0))
    own = np.concatenate([prompt, tokens])
    with torch.no_grad():
        logits = model(*row_of([own], 4, 4 + 64))[0]
    assert np.array_equal(logits.argmax(-1)[30:61].numpy(), tokens)


def test_tokens_are_drawn_as_likely_as_they_are():
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])).expand(4000, 1, 4)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    for sampling, expected in (
        (EVERYTHING, [0.05, 0.5, 0.15, 0.3]),
        (Sampling(temperature=1.0, top_k=2, top_p=None), [0, 0.625, 0, 0.375]),
        (Sampling(temperature=1.0, top_p=0.7), [0, 0.625, 0, 0.375]),
        (Sampling(temperature=1.0, top_p=0.81), [0, 0.526, 0.158, 0.316]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.3), [0, 1, 0, 0]),
        (Sampling(temperature=0.5, top_p=1), [0.007, 0.685, 0.062, 0.247]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
    ):
        drawn = sampling.draw(logits, generators)
        shares = torch.bincount(drawn.flatten(), minlength=4) / 4000
        # Five standard deviations.
        assert (shares - torch.tensor(expected)).abs().max() < 0.04, sampling
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(LMError, match=next(iter(wrong))):
            Sampling(**wrong)


@pytest.mark.parametrize("causal", [True, False])
def test_sound_while_tokens_come_is_that_of_all_of_them(tmp_path, causal):
    files = speaking(causal_files(tmp_path), causal)
    torch.manual_seed(0)
    model = shaken(SpeechLM.from_tokenizer(small_config(inputs="decompressor"), files))
    generator, tokenizer, prompt = Generator(model), Tokenizer(files), speech(18, seed=1)
    (tokens,) = generator.generate([prompt], 43, [3], sampling=EVERYTHING)
    pieces = list(generator.speak(tokenizer, prompt, 43, seed=3, sampling=EVERYTHING))
    expected = tokenizer.decode(np.concatenate([prompt, tokens]))[18 * 320 :]
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-4)
    if causal:
        # The first lacks what the vocoder's windows overlap; then it is 80 ms a step.
        assert len(pieces) == 13 and {len(piece) for piece in pieces[2:-2]} == {1280}
    else:
        assert len(pieces) == 1
    with pytest.raises(UsageError, match="no vocoder"):
        generator.speak(Tokenizer(replace(files, vocoder=None)), prompt, 4)
