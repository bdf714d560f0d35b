"""The language model: a position depends on nothing after its chunk and on no other utterance.

The reference for attention is one dense mask, written from the definition.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lm_models import CODES, causal_files, row_of, shaken, small_config, small_lm, speech
from models import LAYERS, small_tokenizer, small_wavlm
from transformers import WavLMModel

from lm.attention import BandAttention, FlexAttention
from lm.config import PAD, LMConfig, LMError
from lm.files import read_lm, save_lm
from lm.from_wavlm import start_from_wavlm
from lm.model import NO_TARGET, SpeechLM, targets, token_losses
from tokenizer.codec.decoder import Decoding
from tokenizer.encoder.relative_position import position_buckets

LENGTHS = ((37, 90, 1, 120), (250,), (8, 200))
ROW = 300


def rows(chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows: with many utterances, with one, and with two that leave room at the end."""
    made = [
        row_of([speech(n, seed=10 * r + u) for u, n in enumerate(lengths)], chunk, ROW)
        for r, lengths in enumerate(LENGTHS)
    ]
    return tuple(torch.cat(parts) for parts in zip(*made))


def dense(q, k, v, gate, utterance, table, config):
    """softmax(q k^T / sqrt(d) + gate * bias) v, with a mask over every pair of positions."""
    place = torch.arange(q.shape[2])
    query, key = place[:, None], place[None, :]
    buckets = position_buckets(len(place), config)[key - query + len(place) - 1]
    first = query // config.chunk * config.chunk
    seen = (key // config.chunk <= query // config.chunk) & (key >= first - config.window)
    seen = seen & (utterance[:, :, None] == utterance[:, None, :])
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + gate[..., None] * table[buckets].permute(2, 0, 1)
    return torch.softmax(scores.masked_fill(~seen[:, None], -torch.inf), -1) @ v


@pytest.mark.parametrize("chunk", [1, 4])
def test_both_forms_of_attention_are_the_dense_one(chunk):
    config, (_, utterance) = small_config(chunk=chunk), rows(chunk)
    torch.manual_seed(0)
    parts = [torch.randn(len(utterance), 4, ROW, 16, requires_grad=True) for _ in range(3)]
    parts.append((torch.rand(len(utterance), 4, ROW) * 2).requires_grad_())
    table = torch.randn(config.num_buckets, 4, requires_grad=True)
    expected = dense(*parts, utterance, table, config)
    banded = BandAttention(utterance, table, config=config, dtype=torch.float32)(*parts)
    torch.testing.assert_close(banded, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(expected)
    grads = [torch.autograd.grad(x, [*parts, table], upstream) for x in (expected, banded)]
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    # On a CPU it has no backward pass.
    flex = FlexAttention(utterance, table.detach(), config)(*(part.detach() for part in parts))
    torch.testing.assert_close(flex, expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_compiled_model_bounds_the_stages_of_its_attention_kernels(monkeypatch):
    """With PyTorch's own number the kernels ask for more shared memory than an H100 has."""
    graphs = []

    def backend(module, _):
        graphs.append(module.graph)
        return module.forward

    def flex(utterance, table, config, dtype):
        return FlexAttention(utterance, table, config)

    monkeypatch.setattr("lm.model.attention_over", flex)
    model, (tokens, utterance) = small_lm(), rows(4)
    with torch.no_grad():
        expected = model(tokens, utterance)
        torch._dynamo.reset()
        torch.testing.assert_close(
            torch.compile(model, backend=backend)(tokens, utterance), expected
        )
    torch._dynamo.reset()
    kernels = [
        node for graph in graphs for node in graph.nodes if "flex_attention" in str(node.target)
    ]
    assert len(kernels) == model.config.layers
    assert all({"num_stages": 2}.items() <= _options(node).items() for node in kernels)


def _options(node: torch.fx.Node) -> dict:
    """The kernel options of a call of flex_attention in a graph."""
    (options,) = (value for value in node.args if isinstance(value, dict))
    return options


def test_attention_in_bf16_is_near_that_in_fp32():
    model, (tokens, utterance) = small_lm(dropout=0.1), rows(4)
    expected = model(tokens, utterance)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, utterance)
    assert logits.dtype == torch.bfloat16
    assert F.mse_loss(logits.float(), expected) < 1e-3 * expected.var()
    model.train()
    assert not torch.equal(model(tokens, utterance), model(tokens, utterance))


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("inputs", ["embedding", "codes", "decompressor"])
def test_a_token_changes_nothing_up_to_its_chunk_and_nothing_of_others(tmp_path, chunk, inputs):
    # At 12.5 tokens a second, a decompressor of chunks of 4 frames decodes single tokens.
    files = causal_files(tmp_path, (1, 1) if chunk == 4 else (2, 2))
    config = small_config(chunk=chunk, inputs=inputs)
    torch.manual_seed(0)
    model = shaken(SpeechLM.from_tokenizer(config, files))
    tokens, utterance = rows(chunk)
    with torch.no_grad():
        before = model(tokens, utterance)
        for row, place in ((0, 50), (0, 200), (1, 4), (1, 130), (2, 30)):
            changed = tokens.clone()
            later = (utterance[row] == utterance[row, place]) & (torch.arange(ROW) >= place)
            later = later & (tokens[row] >= 0)
            changed[row, later] = (changed[row, later] + 1) % CODES
            same = model(changed, utterance) == before
            begin = place // chunk * chunk
            # Only later positions of the same utterance may change.
            may = torch.zeros_like(utterance, dtype=torch.bool)
            may[row, begin:] = utterance[row, begin:] == utterance[row, place]
            assert same[~may].all()
            assert not same[row, begin : begin + chunk].all(-1).any()
            # The same for a change of one token.
            one = tokens.clone()
            one[row, place] = (one[row, place] + 1) % CODES
            assert (model(one, utterance) == before)[~may].all()


def test_an_utterance_alone_is_as_in_a_row(tmp_path):
    model = shaken(
        SpeechLM.from_tokenizer(small_config(inputs="decompressor"), causal_files(tmp_path))
    )
    tokens, utterance = rows(4)
    with torch.no_grad():
        logits = model(tokens, utterance)
        for number, length in enumerate(LENGTHS[0]):
            row = row_of([speech(length, seed=number)], 4, 4 + -(-length // 4) * 4)
            alone = model(*row)[0, : length + 3]
            together = logits[0][utterance[0] == number][: length + 3]
            # The last chunk, which has padding, predicts nothing.
            end = length // 4 * 4 + 4
            torch.testing.assert_close(alone[:end], together[:end], atol=1e-5, rtol=1e-5)


def test_every_token_is_a_target_and_no_other_thing():
    for chunk in (1, 4):
        tokens, utterance = rows(chunk)
        wanted = targets(tokens, utterance, chunk)
        assert (wanted >= 0).sum() == sum(map(sum, LENGTHS))
        place = (wanted[0] >= 0).nonzero()[:, 0]
        assert torch.equal(wanted[0, place], tokens[0, place + chunk])
        assert torch.equal(utterance[0, place], utterance[0, place + chunk])
        logits = torch.randn(3, ROW, CODES, requires_grad=True)
        losses = token_losses(logits, wanted)
        expected = F.cross_entropy(logits.mT, wanted, ignore_index=NO_TARGET, reduction="none")
        torch.testing.assert_close(losses, expected)
        weight = torch.rand_like(losses)
        ours, theirs = (torch.autograd.grad((x * weight).sum(), logits) for x in (losses, expected))
        torch.testing.assert_close(ours, theirs)


def test_wavlms_upper_layers_do_what_they_did(tmp_path):
    """In a row of one chunk, attention sees everything and the layers must give WavLM's output."""
    wavlm, frames = small_wavlm(tmp_path, "layer"), 60
    with torch.no_grad():
        noise = torch.randn(1, 320 * frames + 80, generator=torch.Generator().manual_seed(2))
        theirs = wavlm(noise, output_hidden_states=True)
    first = 1
    config = small_config(
        codebook_size=frames, layers=LAYERS - first, chunk=frames, layer_norm_eps=1e-3
    )
    model = SpeechLM(config).eval()
    model.inputs.table.copy_(theirs.hidden_states[first][0])
    model.inputs.shift.normal_()  # the standardisation must be undone
    start_from_wavlm(model, wavlm, first)
    tokens, utterance = torch.arange(frames)[None], torch.zeros(1, frames, dtype=torch.int32)
    with torch.no_grad():
        features = model.encoder(model.inputs(tokens, utterance), utterance)
    torch.testing.assert_close(features, theirs.last_hidden_state, atol=1e-4, rtol=1e-4)


def post_norm(wavlm: WavLMModel) -> WavLMModel:
    """The same shape with post-norm layers, as wavlm-base has."""
    return WavLMModel(
        type(wavlm.config)(**{**wavlm.config.to_dict(), "do_stable_layer_norm": False})
    )


def test_what_cannot_start_from_wavlm(tmp_path):
    wavlm = small_wavlm(tmp_path / "large", "layer")
    for changes, problem in (
        ({"heads": 8}, "heads"),
        ({"feed_forward": 100}, "feed_forward"),
        ({"num_buckets": 16}, "num_buckets"),
        ({"layers": LAYERS}, f"with {LAYERS}"),
        ({"inputs": "embedding"}, "width"),
        ({"input_width": 32}, "width"),
    ):
        with pytest.raises(LMError, match=problem):
            start_from_wavlm(SpeechLM(small_config(**changes)), wavlm, 2)
    with pytest.raises(LMError, match="norms after"):
        start_from_wavlm(SpeechLM(small_config()), post_norm(wavlm), 2)


@pytest.mark.parametrize("factors", [(1, 1), (2, 2)], ids=["50 Hz", "12.5 Hz"])
def test_inputs_are_what_the_decompressor_makes_of_each_utterance(tmp_path, factors):
    files = causal_files(tmp_path, factors)
    model = SpeechLM.from_tokenizer(small_config(inputs="decompressor"), files)
    tokens, utterance = rows(4)
    standard = model.inputs(tokens, utterance)
    model.inputs.leave_untouched()
    plain = model.inputs(tokens, utterance)
    features = Decoding(files).features([speech(n, seed=u) for u, n in enumerate(LENGTHS[0])])
    for number, decoded in enumerate(features):
        expected = decoded.unflatten(0, (-1, model.config.frames_per_token)).mean(1)
        whole = len(expected) // 4 * 4
        here = plain[0][(utterance[0] == number) & (tokens[0] >= 0)]
        torch.testing.assert_close(here[:whole], expected[:whole], atol=1e-5, rtol=1e-5)
    assert (plain[tokens == PAD] == 0).all()
    # The features' mean is about 7; standardised it is about 0.
    assert plain[tokens >= 0].mean() > 6.5 and standard[tokens >= 0].mean().abs() < 0.5
    # The table of "codes" is standardised in the same way, from each code decoded alone.
    table = SpeechLM.from_tokenizer(small_config(), files).inputs
    vectors = table.of_tokens(torch.arange(CODES))
    assert torch.allclose(vectors.mean(0), torch.zeros(64), atol=1e-4)
    alone = Decoding(files).features([[code] for code in range(CODES)])
    expected = torch.stack([rows.mean(0) for rows in alone])
    torch.testing.assert_close(table.table, expected, atol=1e-4, rtol=1e-4)


def test_what_would_tell_the_future_is_refused(tmp_path):
    files, plain = causal_files(tmp_path / "a"), small_tokenizer(tmp_path / "b", codes=CODES)
    for config, tokenizer, problem in (
        (small_config(inputs="decompressor", chunk=2), files, "sees 4 tokens at once"),
        (small_config(inputs="decompressor", chunk=1), files, "sees 4 tokens at once"),
        (small_config(inputs="decompressor"), plain, "causal"),
        (small_config(codebook_size=9), plain, "32"),
    ):
        with pytest.raises(LMError, match=problem):
            SpeechLM.from_tokenizer(config, tokenizer)
    ahead = replace(files, compressor=replace(files.compressor, causal=False))
    with pytest.raises(LMError, match="causal"):
        SpeechLM.from_tokenizer(small_config(inputs="decompressor"), ahead)
    with pytest.raises(LMError, match="heads"):
        LMConfig(codebook_size=8, width=65, layers=1, heads=2, feed_forward=8)


@pytest.mark.parametrize("inputs", ["codes", "decompressor", "embedding"])
def test_a_folder_gives_the_model_back(tmp_path, inputs):
    files = None if inputs == "embedding" else causal_files(tmp_path / "wavlm")
    config = small_config(inputs=inputs)
    model = shaken(SpeechLM.from_tokenizer(config, files) if files else SpeechLM(config))
    save_lm(tmp_path / "lm", model, tokenizer=files, made_by={"by": "a test"})
    tokens, utterance = rows(4)
    with torch.no_grad():
        expected = model(tokens, utterance)
        again, tokenizer = read_lm(tmp_path / "lm")
        assert again.config == model.config and not again.training
        assert torch.equal(again(tokens, utterance), expected)
        assert (tokenizer and tokenizer.fingerprint) == (files and files.fingerprint)
        half, _ = read_lm(tmp_path / "lm", precision="bf16")
        assert F.mse_loss(half(tokens, utterance).float(), expected) < 1e-3 * expected.var()


def test_what_is_no_model_folder(tmp_path):
    files = causal_files(tmp_path / "wavlm")
    model = SpeechLM.from_tokenizer(small_config(), files)
    save_lm(tmp_path / "lm", model, tokenizer=files, made_by={})
    about, weights = tmp_path / "lm/config.json", tmp_path / "lm/model.safetensors"
    text, data = about.read_text(), weights.read_bytes()
    for path, content, problem in (
        (about, "[]", "not a JSON object"),
        (about, text.replace("wavmill-lm-1", "wavmill-lm-0"), "format"),
        (about, text.replace('"width": 64', '"breadth": 64'), "breadth"),
        (about, text.replace('"width": 64', '"width": 68'), "not of the shape"),
        (about, text.replace('"layers": 2', '"layers": 0'), "layers"),
        (about, text.replace(files.fingerprint, "0" * 64), "not the one"),
        (weights, data[:1000], "no readable model.safetensors"),
        (tmp_path / "lm/tokenizer/config.json", "{}", "tokenizer in it"),
        (about, None, "no readable config.json"),
    ):
        kept = path.read_bytes()
        data = content.encode() if isinstance(content, str) else content
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(LMError, match=problem):
            read_lm(tmp_path / "lm")
        path.write_bytes(kept)
    read_lm(tmp_path / "lm")
