"""A small model behind the page of jobs/serve.py, in this process, and a tab without a browser."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from causal_models import files_of, small_student
from lm_models import speaking
from websockets.sync.client import ClientConnection, connect

from jobs.serving.app import in_background, make_app
from jobs.serving.models import ServedModels
from lm.config import LMConfig
from lm.model import SpeechLM
from tokenizer.storage.tokenizer_files import TokenizerFiles


def causal_voice(folder: Path) -> TokenizerFiles:
    """A random causal tokenizer with a causal vocoder. folder: for its encoder."""
    return speaking(files_of(small_student(folder), (1,)), causal=True)


def language_model(files: TokenizerFiles) -> SpeechLM:
    """A small one of random weights."""
    torch.manual_seed(0)
    shape = {"width": 48, "layers": 2, "heads": 2, "feed_forward": 96, "window": 64}
    config = LMConfig(codebook_size=files.codebook_size, **shape)
    return SpeechLM.from_tokenizer(config, files).eval()


class Served:
    """A running server. sessions: of the tabs that are open."""

    def __init__(self, models: ServedModels, sessions: set, port: int) -> None:
        self.models, self.sessions, self.port = models, sessions, port
        self.url = f"http://127.0.0.1:{port}/"

    def settle(self) -> None:
        """Wait until no tab is open."""
        deadline = time.monotonic() + 120
        while self.sessions and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not self.sessions


@contextlib.contextmanager
def serving(models: ServedModels) -> Iterator[Served]:
    """A server until the end of the block."""
    app = make_app(models, "127.0.0.1")
    with in_background(app) as port:
        yield Served(models, app.state.sessions, port)
    models.close()


class Tab:
    """What the page does with its socket. tokens, sound: of resynthesis and continuation."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.about = json.loads(socket.recv(timeout=120))
        self.clear()

    def clear(self) -> None:
        self.tokens: tuple[list, list] = ([], [])
        self.sound: tuple[list, list] = ([], [])
        self.ends: list[int] = []

    def say(self, kind: str, **values: object) -> None:
        self.socket.send(json.dumps({"type": kind, **values}))

    def speak(self, wave: np.ndarray, rate: int = 16_000, piece: int = 320) -> None:
        """An utterance in pieces, as fast as it goes."""
        self.say("start", sample_rate=rate)
        for start in range(0, len(wave), piece):
            self.socket.send(wave[start : start + piece].astype("<f4").tobytes())
        self.say("finish")

    def until(self, *kinds: str) -> dict:
        """Read up to a message of one of these types; "error" ends it too."""
        while True:
            message = self.socket.recv(timeout=120)
            if isinstance(message, bytes):
                part = int(np.frombuffer(message[:4], "<u4")[0])
                self.sound[part].append(np.frombuffer(message[4:], "<f4"))
                continue
            message = json.loads(message)
            if message["type"] == "tokens":
                self.tokens[message["part"]].extend(message["tokens"])
                self.ends.append(message.get("end", 0))
            if message["type"] in (*kinds, "error"):
                return message


@contextlib.contextmanager
def tab(served: Served, **options: object) -> Iterator[Tab]:
    """A tab on its own connection."""
    address = f"ws://127.0.0.1:{served.port}/speak"
    with connect(address, max_size=None, compression=None, **options) as socket:
        yield Tab(socket)
