"""A language model as a folder, with the tokenizer whose tokens it models.

config.json         the shape, and how the model was made
model.safetensors   all weights, those of frozen inputs included
tokenizer/          the tokenizer's folder, with its vocoder; absent for tokens that name none
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lm.config import LMConfig, LMError
from lm.model import SpeechLM
from tokenizer.storage.json_file import read_object
from tokenizer.storage.tokenizer_files import TokenizerError, TokenizerFiles
from tokenizer.tokenizer import PRECISIONS

FORMAT = "wavmill-lm-1"


def save_lm(folder: Path, model: SpeechLM, tokenizer: TokenizerFiles | None, made_by: dict) -> None:
    """Write the folder that read_lm reads. made_by: a record for config.json, read by people."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.detach().float().cpu().contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    if tokenizer:
        tokenizer.save(folder / "tokenizer")
    config = {"format": FORMAT, "model": model.config.to_dict(), "made_by": made_by}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_lm(
    folder: Path, device: torch.device | str = "cpu", precision: str = "fp32"
) -> tuple[SpeechLM, TokenizerFiles | None]:
    """The model, in evaluation mode, and its tokenizer's files, from a local folder.

    precision: "fp32" or "bf16", of the layers and the head; inputs stay in fp32. Raises LMError
    when the folder is not a language model's, or its parts do not belong together.
    """
    if precision not in PRECISIONS:
        remedy = f"give one of {', '.join(PRECISIONS)}"
        raise LMError("unknown precision", remedy, value=precision, argument="precision")
    folder = Path(folder)
    content = read_object(folder / "config.json", LMError)
    if content.get("format") != FORMAT:
        raise LMError(f'its config.json does not say "format": "{FORMAT}"')
    if not isinstance(content.get("model"), dict):
        raise LMError("its config.json does not say what shape the model has")
    config = LMConfig.from_dict(content["model"])
    model = SpeechLM(config)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise LMError("it has no readable model.safetensors") from error
    except RuntimeError as error:
        raise LMError("its weights are not of the shape that its config.json says") from error
    model.to_precision(PRECISIONS[precision]).to(device).eval()
    return model, _tokenizer(folder / "tokenizer", config)


def _tokenizer(folder: Path, config: LMConfig) -> TokenizerFiles | None:
    if config.tokenizer is None:
        return None
    try:
        files = TokenizerFiles.read(folder)
    except TokenizerError as error:
        raise LMError(f"the tokenizer in it cannot be used: {error}") from error
    if files.fingerprint != config.tokenizer:
        raise LMError("the tokenizer in it is not the one that its config.json names")
    return files
