"""One tab: what it sends over its socket, in order, and what it gets back.

A tab sends text, {"type": ...}, and binary messages:
    start {sample_rate}, then float32 samples in pieces, then finish
    file, then the file's bytes in one message
    continue {seconds, temperature, top_p, seed}: go on from the last utterance
    stop: end what runs now
It gets
    ready, with what ServedModels.about says
    tokens {tokens, first_end, end, part}: how many samples their first chunk needed, and all
    binary: a uint32, 0 for resynthesis or 1 for a continuation, and float32 samples
    finished, continued {seed} or error {message}
"""

import asyncio
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from jobs.serving.hearing import Hearing, waveform_of
from jobs.serving.models import DECODER, ENCODER, LM, MOST_BYTES, ServedModels
from lm.generation import Generator, Prefilled, Sampling, Speaking
from lm.prompts import tokens_in
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import UsageError

# Messages that wait, and MOST_BYTES of them. Beyond it the socket is not read: the browser keeps
# what follows.
MOST_WAITING = 512
LONGEST_CONTINUATION = 60.0
RESYNTHESIS, CONTINUATION = 0, 1


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. stops: how often the tab had said stop when it came."""

    command: dict[str, Any] | None = None
    content: bytes = b""
    stops: int = 0


class TabSession:
    """The state of one tab, from its connection to its end."""

    def __init__(self, socket: WebSocket, models: ServedModels) -> None:
        self.socket, self.models = socket, models
        self.waiting: asyncio.Queue[Message] = asyncio.Queue(MOST_WAITING)
        self.bytes_waiting, self.room = 0, asyncio.Event()
        self.held: Message | None = None
        self.stops = 0
        self.hearing: Hearing | None = None
        self.voice: Speaking | None = None
        self.file_follows = False
        self.prompt: list[np.ndarray] = []
        self.prepared: asyncio.Task[tuple[Speaking, Prefilled]] | None = None

    async def run(self) -> None:
        """Serve the tab until it closes."""
        await self.socket.accept()
        await self._say("ready", **self.models.about())
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._work())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._forget_prompt()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(WebSocketDisconnect):  # found out while something was sent
            for task in done:
                task.result()

    async def _read(self) -> None:
        """Put the tab's messages in line; stop is heeded at once."""
        while (message := await self.socket.receive())["type"] != "websocket.disconnect":
            if (text := message.get("text")) is None:
                await self._put(Message(content=message["bytes"], stops=self.stops))
                continue
            command = _command(text)
            self.stops += command["type"] == "stop"
            await self._put(Message(command=command, stops=self.stops))

    async def _put(self, message: Message) -> None:
        while self.bytes_waiting > MOST_BYTES:
            self.room.clear()
            await self.room.wait()
        self.bytes_waiting += len(message.content)
        await self.waiting.put(message)

    def _taken(self, message: Message) -> Message:
        self.bytes_waiting -= len(message.content)
        self.room.set()
        return message

    async def _work(self) -> None:
        while True:
            message = await self._next()
            try:
                if message.command is None:
                    await self._take(message)
                else:
                    await self._obey(message.command, message.stops)
            except UsageError as error:
                self.hearing, self.file_follows = None, False
                await self._say("error", message=str(error))

    async def _next(self) -> Message:
        """The next message; pieces of sound that wait already come as one.

        Whoever is behind catches up so: many chunks in one pass cost less than one by one.
        """
        message, self.held = self.held or self._taken(await self.waiting.get()), None
        if message.command is not None or self.file_follows:
            return message
        pieces = [message.content]
        while self.held is None and not self.waiting.empty():
            following = self._taken(self.waiting.get_nowait())
            if following.command is None:
                pieces.append(following.content)
            else:
                self.held = following
        return Message(content=b"".join(pieces), stops=message.stops)

    async def _obey(self, command: dict[str, Any], stops: int) -> None:
        kind = command["type"]
        if kind == "start":
            self._begin(_number(command, "sample_rate", SAMPLE_RATE))
        elif kind == "finish":
            await self._finish()
        elif kind == "file":
            self.file_follows = True
        elif kind == "continue":
            await self._continue(command, stops)
        elif kind != "stop":
            raise UsageError(f"the page sent {kind!r}, which means nothing here", "reload it")

    def _begin(self, sample_rate: float) -> None:
        self._forget_prompt()
        self.file_follows = False
        self.hearing = Hearing(self.models.tokenizer, sample_rate)
        self.voice = Speaking(self.models.tokenizer, np.empty(0, np.int64))

    async def _take(self, message: Message) -> None:
        """A piece of sound, or a whole file. What comes after an error is dropped."""
        if self.file_follows:
            await self._hear_file(message)
        elif self.hearing is not None:
            if len(message.content) % 4:
                raise UsageError("a message is no float32 samples", "reload the page")
            await self._hear(np.frombuffer(message.content, "<f4"))

    async def _hear_file(self, message: Message) -> None:
        self.file_follows = False
        wave = await asyncio.to_thread(waveform_of, message.content)
        self._begin(SAMPLE_RATE)
        for start in range(0, len(wave), SAMPLE_RATE):
            if self.stops == message.stops:
                await self._hear(wave[start : start + SAMPLE_RATE])
        await self._finish()

    async def _hear(self, samples: np.ndarray) -> None:
        assert self.hearing is not None
        await self._give(await self.models.run(ENCODER, self.hearing.push, samples))

    async def _finish(self) -> None:
        if self.hearing is None or self.voice is None:
            return
        await self._give(await self.models.run(ENCODER, self.hearing.finish))
        await self._play(await self.models.run(DECODER, self.voice.finish), RESYNTHESIS)
        self.hearing = None
        await self._say("finished")
        self._expect_continue()

    def _expect_continue(self) -> None:
        """Prepare it before it is asked for, where the language model takes the utterance."""
        if self.models.generator is not None and self.prompt:
            prompt = np.concatenate(self.prompt)
            with suppress(UsageError):  # said when it is asked for
                self.models.generator.check(prompt)
                self._prepare(prompt)

    def _prepare(self, prompt: np.ndarray) -> None:
        """Begin to take a prompt through the language model and the decoder."""
        assert self.models.generator is not None
        self.prepared = asyncio.create_task(self._prepared(self.models.generator, prompt))

    async def _prepared(
        self, generator: Generator, prompt: np.ndarray
    ) -> tuple[Speaking, Prefilled]:
        """What sounds after the prompt, and the prompt's way through the language model."""
        voice = await self.models.run(DECODER, Speaking, self.models.tokenizer, prompt)
        return voice, await self.models.run(LM, generator.prefill, prompt)

    def _forget_prompt(self) -> None:
        self.prompt = []
        if self.prepared is not None:
            self.prepared.cancel()
            self.prepared = None

    async def _give(self, tokens: np.ndarray) -> None:
        """New tokens of the utterance, and their sound."""
        assert self.hearing is not None and self.voice is not None
        if len(tokens):
            self.prompt.append(tokens)
            ends = {"first_end": self.hearing.first_end, "end": self.hearing.end}
            await self._say("tokens", tokens=tokens.tolist(), part=RESYNTHESIS, **ends)
            await self._play(await self.models.run(DECODER, self.voice.push, tokens), RESYNTHESIS)

    async def _continue(self, command: dict[str, Any], stops: int) -> None:
        generator = self.models.generator
        if generator is None:
            raise UsageError("there is no language model", "start the job with one")
        if not self.prompt:
            raise UsageError("there is nothing to go on from", "speak first, or choose a file")
        prompt, seed = np.concatenate(self.prompt), int(_number(command, "seed", -1))
        seed = secrets.randbits(31) if seed < 0 else seed
        count, sampling = _wanted(command, generator.config.frames_per_token)
        generator.check(prompt)
        if self.prepared is None:
            self._prepare(prompt)
        assert self.prepared is not None
        prepared, self.prepared = self.prepared, None
        voice, prefilled = await prepared
        chunks = generator.first_tokens(
            prompt, count, seed=seed, sampling=sampling, prefilled=prefilled
        )
        while self.stops == stops:
            tokens = await self.models.run(LM, next, chunks, None)
            if tokens is None:
                break
            await self._say("tokens", tokens=tokens.tolist(), part=CONTINUATION)
            await self._play(await self.models.run(DECODER, voice.push, tokens), CONTINUATION)
        await self._play(await self.models.run(DECODER, voice.finish), CONTINUATION)
        await self._say("continued", seed=seed)
        self._expect_continue()

    async def _play(self, samples: np.ndarray, part: int) -> None:
        if len(samples):
            await self.socket.send_bytes(np.uint32(part).tobytes() + samples.tobytes())

    async def _say(self, kind: str, **values: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, **values}))


def _wanted(command: dict[str, Any], frames_per_token: int) -> tuple[int, Sampling]:
    """How many tokens are to follow, and how they are drawn. Raises UsageError."""
    default = Sampling()
    sampling = Sampling(
        temperature=_number(command, "temperature", default.temperature),
        top_p=_number(command, "top_p", default.top_p or 1.0),
    )
    seconds = _number(command, "seconds", 5.0)
    if not 0 < seconds <= LONGEST_CONTINUATION:
        problem = f"a continuation of {seconds:g} s"
        raise UsageError(problem, f"ask for up to {LONGEST_CONTINUATION:g}")
    return tokens_in(seconds, frames_per_token), sampling


def _command(text: str) -> dict[str, Any]:
    """What a text message says; of type "nonsense" where it is no object of JSON with a type."""
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        command = None
    if isinstance(command, dict) and isinstance(command.get("type"), str):
        return command
    return {"type": "nonsense"}


def _number(command: dict[str, Any], name: str, default: float) -> float:
    value = command.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1 << 53:
        raise UsageError(f"{name} is {value!r}", "give a number")
    return value
