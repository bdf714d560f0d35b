"""The encoder equals transformers' WavLM, HuBERT and wav2vec 2.0 cut at a layer, whatever shares a
batch with an utterance; and a folder's weights are read up to the layer, and no further.
"""

import json
from dataclasses import replace

import pytest
import torch
from models import LAYERS, Bomb, small_encoder, small_wavlm
from safetensors.torch import load_file, save_file

from tokenizer.config import EncoderError
from tokenizer.encoder import wavlm_layer
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

NORMS = ["layer", "group"]
# Of one frame, the last sample before the second and the first with it, one convolution tile,
# and more than one tile (CONV_TILE_FRAMES).
LENGTHS = [16_000, 400, 719, 720, 32_079, 32_080, 400, 50_123]


@pytest.fixture(scope="module", params=NORMS)
def saved(request, tmp_path_factory):
    """(folder, Hugging Face model) of a small WavLM of each shape."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, small_wavlm(folder, request.param)


@pytest.fixture(scope="module")
def waves():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, generator=generator) for n in LENGTHS]


def reference(model, wave):
    """Output of every layer, (layers + 1) x (T, D), by transformers."""
    with torch.no_grad():
        return [x[0] for x in model(wave[None], output_hidden_states=True).hidden_states]


def error(ours, theirs):
    """Largest difference over all utterances, relative to the largest feature."""
    pairs = list(zip(ours, theirs, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("layer", [0, 1, 2, LAYERS])
def test_features_are_those_of_transformers(saved, waves, layer, monkeypatch):
    folder, model = saved
    config, weights = read_encoder(folder, layer)
    expected = [reference(model, wave)[layer] for wave in waves]
    assert [len(x) for x in expected] == [(n - 400) // 320 + 1 for n in LENGTHS]
    # utterances_per_group=len(LENGTHS) pads them all together, as a GPU does.
    for per_group in (None, 3, len(LENGTHS)):
        encoder = WavLM(config, weights, utterances_per_group=per_group)
        assert error(encoder(waves), expected) < 1e-5, per_group
        # One head at a time, as for long utterances.
        monkeypatch.setattr(wavlm_layer, "SCORE_TILE_BYTES", 1)
        assert error(encoder(waves), expected) < 1e-5, per_group
        monkeypatch.undo()
    half = WavLM(config, weights, dtype=torch.bfloat16, utterances_per_group=per_group)(waves)
    for ours, theirs in zip(half, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()


# distilhubert's conv features are not normalised; conv biases are the large shape's alone.
OTHERS = [
    ("hubert", "layer", {}),
    ("hubert", "group", {}),
    ("hubert", "group", {"feat_proj_layer_norm": False}),
    ("hubert", "layer", {"conv_bias": False}),
    ("wav2vec2", "layer", {}),
    ("wav2vec2", "group", {"conv_bias": True}),
]


@pytest.mark.parametrize(
    "kind, norm, changes", OTHERS, ids=lambda x: "-".join(x) if isinstance(x, dict) else x
)
def test_hubert_and_wav2vec2_are_read_and_run(tmp_path, waves, kind, norm, changes):
    model = small_encoder(tmp_path, kind, norm, **changes)
    for layer in (0, 1, LAYERS - 1):
        config, weights = read_encoder(tmp_path, layer)
        assert not config.position_bias
        assert config.normalize == (norm == "layer")
        expected = [reference(model, wave)[layer] for wave in waves]
        for per_group in (None, len(LENGTHS)):
            encoder = WavLM(config, weights, utterances_per_group=per_group)
            assert error(encoder(waves), expected) < 1e-5, per_group
            half = WavLM(config, weights, dtype=torch.bfloat16, utterances_per_group=per_group)(
                waves
            )
            for ours, theirs in zip(half, expected, strict=True):
                assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()
    weights = {f"encoder.{name}": weight for name, weight in weights.items()}
    weights["codebook.codes"] = expected[0][:20].clone()
    TokenizerFiles(config, "l2", weights).save(tmp_path / "units")
    files = TokenizerFiles.read(tmp_path / "units")
    assert files.encoder == config
    (tokens,) = Tokenizer(files).encode_windows([waves[0].numpy()])
    assert list(tokens[:20]) == list(range(20))
    with pytest.raises(EncoderError, match="cannot be causal"):
        replace(config, causal=True, normalize=False, feat_extract_norm="layer")


def test_a_batch_changes_none_of_its_utterances(saved, waves):
    folder, _ = saved
    config, weights = read_encoder(folder, LAYERS)
    padded = WavLM(config, weights, utterances_per_group=len(waves))
    alone = [padded([wave])[0] for wave in waves]
    for order in (range(len(waves)), reversed(range(len(waves)))):
        order = list(order)
        assert error(padded([waves[i] for i in order]), [alone[i] for i in order]) < 1e-5
    if config.feat_extract_norm == "layer":
        # What a GPU runs in place of tiles: one padded batch through the convolutions.
        lengths = [len(x) for x in alone]
        batched = padded._convolve_batch(waves, lengths)
        assert error([batched], [padded.convolve(waves, lengths)]) < 1e-5
    assert padded([]) == []
    with pytest.raises(ValueError, match="fewer than 400"):
        padded([waves[0], torch.zeros(399)])


def test_position_bias_is_that_of_transformers_at_any_length(saved):
    folder, model = saved
    encoder = WavLM(*read_encoder(folder, 1))
    attention = model.encoder.layers[0].attention
    for buckets, far in ((32, 60), (320, 800)):
        encoder.config = replace(encoder.config, num_buckets=buckets, max_bucket_distance=far)
        attention.num_buckets, attention.max_distance = buckets, far
        table = torch.randn(buckets, 4, generator=torch.Generator().manual_seed(3))
        encoder.bias_table = attention.rel_attn_embed.weight.data = table
        encoder._bias = torch.empty(4, 0, 0)
        # Longer after shorter and the reverse: what is kept from before must be as good.
        for frames in (7, 900, 300):
            ours = encoder.position_bias(frames)[:, :frames, :frames]
            with torch.no_grad():
                theirs = attention.compute_bias(frames, frames)
            assert torch.equal(ours, theirs)


def layers_above(name, layer):
    return name.startswith("encoder.layers.") and int(name.split(".")[2]) >= layer


@pytest.mark.parametrize("above", ["missing", "damaged", "in a lost shard", "in an old .bin"])
def test_weights_above_the_layer_are_never_read(tmp_path, waves, above):
    small_wavlm(tmp_path, "layer")
    config, whole = read_encoder(tmp_path, 2)
    expected = WavLM(config, whole)(waves)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lower = {k: v for k, v in weights.items() if not layers_above(k, 2)}
    upper = {k: v for k, v in weights.items() if layers_above(k, 2)}
    assert lower and upper
    if above == "missing":
        save_file(lower, file)
    elif above == "damaged":
        save_file({**lower, **{k: torch.full((3,), torch.nan) for k in upper}}, file)
    elif above == "in a lost shard":
        file.unlink()
        save_file(lower, tmp_path / "model-00001-of-00002.safetensors")
        where = {k: f"model-0000{1 + (k in upper)}-of-00002.safetensors" for k in weights}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        file.unlink()
        torch.save({**lower, **{k: torch.zeros(()) for k in upper}}, tmp_path / "pytorch_model.bin")
    config, weights = read_encoder(tmp_path, 2)
    assert weights.keys() == whole.keys()
    assert not any(layers_above(name, 2) for name in weights)
    assert error(WavLM(config, weights)(waves), expected) == 0
    if above in ("missing", "in a lost shard"):
        with pytest.raises(EncoderError):
            read_encoder(tmp_path, 3)


@pytest.mark.parametrize("prefix", ["", "wavlm.", "hubert.", "wav2vec2."])
@pytest.mark.parametrize("weight_norm", ["weight_g/v", "parametrizations"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_older_names_and_files_give_the_same_weights(tmp_path, prefix, weight_norm, file):
    small_encoder(tmp_path, prefix.rstrip(".") or "wavlm", "layer")
    _, expected = read_encoder(tmp_path, 2)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    renamed = {}
    for name, tensor in weights.items():
        if weight_norm == "weight_g/v":
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
        renamed[prefix + name] = tensor
    assert any(name.endswith("weight_g") for name in renamed) == (weight_norm == "weight_g/v")
    # As in checkpoints of a fine-tuned model: a head's weights beside the encoder's.
    renamed["classifier.weight"] = torch.zeros(2, 64)
    save = save_file if file.endswith("safetensors") else torch.save
    save(renamed, tmp_path / file)
    _, weights = read_encoder(tmp_path, 2)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_input_is_normalised_as_the_preprocessor_file_says(tmp_path):
    for norm in NORMS:
        small_wavlm(tmp_path / norm, norm)
        # The published models' rule, for folders without the file.
        assert read_encoder(tmp_path / norm, 1)[0].normalize == (norm == "layer")
        for value in (True, False):
            preprocessor = json.dumps({"do_normalize": value, "sampling_rate": 16_000})
            (tmp_path / norm / "preprocessor_config.json").write_text(preprocessor)
            assert read_encoder(tmp_path / norm, 1)[0].normalize == value


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """config.json and weights of a good folder, to spoil copies of."""
    folder = tmp_path_factory.mktemp("sound")
    small_wavlm(folder, "layer")
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def write(folder, config, weights):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "wav2vec2-conformer"}, "wav2vec2-conformer"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 16}, "adapter_attn_dim"),
        ({"model_type": "hubert", "conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        ({"model_type": "hubert", "hidden_act": "swish"}, "gelu"),
        ({"model_type": None}, "not a 'wavlm'"),
        ({"num_hidden_layers": 1}, "1 layers"),
        ({"hidden_act": "relu"}, "gelu"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "every 160"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_another_configuration_is_an_error(tmp_path, sound, change, says):
    write(tmp_path, {**sound[0], **change}, sound[1])
    with pytest.raises(EncoderError, match=says):
        read_encoder(tmp_path, 2)


@pytest.mark.parametrize("config", [None, "", "[1]", "{"])
def test_a_folder_without_a_configuration_is_an_error(tmp_path, sound, config):
    save_file(sound[1], tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(EncoderError):
        read_encoder(tmp_path, 2)


def test_every_weight_it_needs_is_asked_for(tmp_path, sound):
    config, weights = sound
    write(tmp_path, config, weights)
    # Of a pre-norm model, encoder.layer_norm lies above every layer.
    above = ("encoder.layer_norm.", "masked_spec_embed")
    write(tmp_path, config, {k: v for k, v in weights.items() if not k.startswith(above)})
    WavLM(*read_encoder(tmp_path, 1))([torch.zeros(400)])
    needed = [k for k in weights if not layers_above(k, 1) and not k.startswith(above)]
    unnoticed = {}
    for name in needed:
        write(tmp_path, config, {k: v for k, v in weights.items() if k != name})
        try:
            read_encoder(tmp_path, 1)
            unnoticed[name] = "read"
        except EncoderError:
            pass
        except Exception as error:
            unnoticed[name] = type(error).__name__
    assert not unnoticed


@pytest.mark.parametrize("spoiled", ["no file", "cut", "empty", "not tensors"])
def test_unreadable_weights_are_an_error(tmp_path, sound, spoiled):
    write(tmp_path, *sound)
    file = tmp_path / "model.safetensors"
    if spoiled == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif spoiled == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    if spoiled == "not tensors":
        torch.save({"encoder.x": Bomb(tmp_path / "constructed")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError):
        read_encoder(tmp_path, 2)
    assert not (tmp_path / "constructed").exists()
