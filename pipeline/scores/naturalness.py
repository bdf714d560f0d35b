"""How natural speech sounds, without a reference: mean opinion scores that models predict, 1 to 5.

DNSMOS (arXiv 2010.15258 and, with P.835's scales, 2110.01763) comes with the package speechmos.
UTMOS (arXiv 2204.02152) is read as TorchScript, which needs none of its authors' code.
"""

import math
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scores.model_folders import name_of
from pipeline.scores.unscored import Unscored, needed
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.fetch import fetch_folder

# P.808's overall quality; P.835's of the speech signal, of the background, and overall.
DNSMOS = {"p808": "p808_mos", "sig": "sig_mos", "bak": "bak_mos", "ovrl": "ovrl_mos"}
EMPTY = "it has no samples"
NOT_FINITE = "the model gives no number"
# What a TorchScript file may be called, and what is fetched of a repository on the hub: others'
# weights of the same model lie beside it.
TORCHSCRIPT_ENDINGS = (".jit", ".pt", ".pth", ".ts")
FROM_HUB = ("*.jit", "*.ts", "*script*.pt")
# Opinions are from 1 to 5; what predicts them may go a little beyond.
LEAST, MOST = 0.0, 6.0
UTMOS_REMEDY = (
    "give a folder or hub id with UTMOS as TorchScript, such as balacoon/utmos or "
    "Blinorot/UTMOS-PyTorch"
)


def dnsmos(wave: np.ndarray) -> dict[str, float]:
    """{"p808", "sig", "bak", "ovrl"} of (n,) float at 16 kHz; values over 1 are clipped.

    The mean over windows of 9 s, a second apart; shorter speech is repeated until it fills one.
    Raises Unscored, and ImportError without the package speechmos.
    """
    if not len(wave):
        raise Unscored(EMPTY)  # the package would wait for ever
    found = _dnsmos_model()(np.clip(wave, -1, 1), SAMPLE_RATE, is_personalized_MOS=False)
    values = {name: float(found[theirs]) for name, theirs in DNSMOS.items()}
    if not all(map(math.isfinite, values.values())):
        raise Unscored(NOT_FINITE)
    return values


def dnsmos_name() -> str:
    """The name and version of DNSMOS. Raises UsageError if it is not installed."""
    return f"DNSMOS, {needed('speechmos', 'speechmos')}"


@cache
def _dnsmos_model() -> Any:
    """The package's model, on one thread: with the package's own sessions threads of all cores spin
    and slow each other down where other processes run.
    """
    import onnxruntime
    from speechmos import dnsmos as package

    folder = Path(package.__file__).parent / "dnsmos_models"
    primary, p808 = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
    model = package.DNSMOS(primary, p808)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model.onnx_sess = onnxruntime.InferenceSession(primary, options)
    model.p808_onnx_sess = onnxruntime.InferenceSession(p808, options)
    return model


class UTMOS:
    """UTMOS as a TorchScript file, utterance by utterance: padding would change its scores.

    There are two releases, of which one takes int16 samples and the other float32 ones: those of
    which a second of sound gets a score that there is. name: the model's, for a record.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        """source: a folder, a URL or a hub id.

        Raises UsageError where no TorchScript file lies there or it cannot score a second of sound:
        checkpoints of fairseq, of lightning and safetensors need code that is not here.
        """
        import torch

        folder = fetch_folder(source, "a UTMOS", hub=True, beside=FROM_HUB)
        file = _torchscript_of(folder, source)
        self.name = f"UTMOS {name_of(source, folder)} ({file.name})"
        self.device = device
        try:
            self.model: Any = torch.jit.load(str(file), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            problem = f"{file.name} does not load: {one_line(error)}"
            raise UsageError(problem, UTMOS_REMEDY, value=source) from error
        second = np.sin(np.arange(SAMPLE_RATE, dtype=np.float32) / 20) / 2
        self.takes_int16 = True
        errors: list[str] = []
        for self.takes_int16 in (True, False):
            try:
                value = self.score(second)
                if LEAST <= value <= MOST:
                    return
                errors.append(f"{value:g}")
            except (RuntimeError, ValueError, TypeError, Unscored) as error:
                errors.append(one_line(error))
        problem = f"{file.name} gives a second of sound no score from 1 to 5 on {device}"
        raise UsageError(f"{problem}: {errors[-1]}", UTMOS_REMEDY, value=source)

    def score(self, wave: np.ndarray) -> float:
        """Of (n,) float at 16 kHz in [-1, 1]. Raises Unscored."""
        import torch

        if not len(wave):
            raise Unscored(EMPTY)
        samples = np.clip(np.asarray(wave, np.float32), -1, 1)
        if self.takes_int16:
            samples = np.rint(samples * 32767).astype(np.int16)
        with torch.inference_mode():
            value = float(self.model(torch.from_numpy(samples)[None].to(self.device)))
        if not math.isfinite(value):
            raise Unscored(NOT_FINITE)
        return value


def _torchscript_of(folder: Path, source: str) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [path for path in files if path.suffix in TORCHSCRIPT_ENDINGS and _is_script(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"it has several TorchScript files: {names}", UTMOS_REMEDY, value=source)
    names = ", ".join(path.name for path in files[:6]) or "nothing"
    problem = f"it has no TorchScript file, but {names}; other forms need their authors' code"
    raise UsageError(problem, UTMOS_REMEDY, value=source)


def _is_script(path: Path) -> bool:
    """Whether it is TorchScript, not a checkpoint of the same ending."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
