"""Make wavslm.json and wavslm.npz: what WavSLM's own code gives for a tiny model.

    git clone https://github.com/lucadellalib/focalcodec
    git clone https://github.com/lucadellalib/wavslm
    git -C focalcodec checkout v0.0.2
    python tests/reference/make_wavslm.py focalcodec wavslm

wavslm.json holds the configuration and the shapes of the tensors, whose values drawn.py draws from
their names; its codec is that of focalcodec_causal.json. wavslm.npz holds tokens, the logits at
some positions of one pass over them, and what follows them greedily. No test runs this.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drawn import REFERENCE, drawn, read_reference, write_reference

WINDOW = 24
TOKENS, GENERATED = 120, 200
# Of one pass: at the start, around the first chunk that loses sight of it, and at the end.
POSITIONS = [0, 20, 24, 28, 119]
PROMPTS = [4, 24, 28, 120]

LM = {
    "vocab_size": 512,
    "num_layers": 3,
    "dim": 24,
    "ffn_dim": 64,
    "num_heads": 4,
    "num_buckets": 32,
    "max_distance": 60,
    "window_size": WINDOW,
    "lookahead_size": 3,
    "toks_per_step": 4,
    "codec_config": "someone/tiny_codec",
}


@torch.no_grad()
def main(focalcodec: str, wavslm: str) -> None:
    """Make both files."""
    sys.path[:0] = [focalcodec, wavslm]
    from focalcodec.codec import FocalCodec
    from wavslm import WavSLM

    reference, weights = read_reference("focalcodec_causal")
    codec = FocalCodec(**reference["config"]).eval()
    codec.load_state_dict(weights)
    torch.hub.load = lambda *_, **__: codec
    model = WavSLM(**LM).eval()
    tensors = {
        k: list(v.shape) for k, v in model.state_dict().items() if not k.startswith("codec.")
    }
    model.load_state_dict(drawn(tensors), strict=False)

    tokens = torch.from_numpy(np.random.RandomState(0).randint(0, 512, (1, TOKENS)))
    logits, *_ = model(codec.toks_to_qfeats(tokens))
    arrays = {"tokens": tokens[0].numpy().astype(np.uint16), "positions": np.array(POSITIONS)}
    arrays["logits"] = logits[0, POSITIONS].numpy()
    for count in PROMPTS:
        (following,) = model._generate_toks(
            lambda *state: codec.toks_to_qfeats(*state, return_state=True),
            tokens[:, :count],
            toks_per_step=4,
            max_gen_toks=GENERATED,
            top_p=0.0,
        )
        arrays[f"after_{count}"] = following.numpy().astype(np.uint16)
    np.savez_compressed(REFERENCE / "wavslm.npz", **arrays)
    write_reference("wavslm", {"config": LM, "tensors": tensors})


if __name__ == "__main__":
    main(*sys.argv[1:])
