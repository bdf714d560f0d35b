"""Chunk-causal inference block by block: transformer layers, each with a KV cache.

A stream brings one chunk at a time and a whole utterance many; both go through the same layers and
get the same numbers. Scores are against the window and the block, however long the sequence is.
"""

from collections.abc import Sequence

from torch import Tensor

from tokenizer.encoder.chunk_mask import block_mask
from tokenizer.encoder.relative_position import Buckets, block_bias
from tokenizer.encoder.wavlm_layer import TransformerLayer


class KVCache:
    """A layer's keys and values of the last `window` positions.

    They lie in a buffer with room for one more block, and move to its start only when it is full.
    """

    def __init__(self, window: int, block: int) -> None:
        """window: how many positions are kept. block: the most that come at once."""
        self.window, self.capacity, self.stop = window, window + block, 0
        self.buffer: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, d) of a block → (B, H, P + T, d), with the P <= window positions before it."""
        if self.buffer is None:
            batch, heads, _, dim = k.shape
            self.buffer = k.new_empty(2, batch, heads, self.capacity, dim)
        positions = k.shape[2]
        if self.stop + positions > self.capacity:
            kept = self.buffer[..., self.stop - self.window : self.stop, :].clone()
            self.buffer[..., : self.window, :] = kept
            self.stop = self.window
        start = max(0, self.stop - self.window)
        for buffer, block in zip(self.buffer, (k, v)):
            buffer[..., self.stop : self.stop + positions, :] = block
        self.stop += positions
        keys, values = self.buffer[..., start : self.stop, :]
        return keys, values


class CachedLayers:
    """Transformer layers over a sequence that comes in blocks of whole chunks."""

    def __init__(
        self,
        layers: Sequence[TransformerLayer],
        table: Tensor,
        config: Buckets,
        *,
        chunk: int,
        window: int,
        block: int,
    ) -> None:
        """layers: with position bias. table: (buckets, H), the bias of all layers. block:
        positions, whole chunks.
        """
        self.layers, self.chunk, self.window, self.block = layers, chunk, window, block
        # Both are made once, for a full block after a full window; a shorter one takes a part.
        self.mask = block_mask(block, window, chunk=chunk, window=window).to(table.device)
        self.bias = block_bias(table, block, past=window, config=config)

    def new_caches(self) -> list[KVCache]:
        """The caches at the start of a sequence, one for each layer."""
        return [KVCache(self.window, self.block) for _ in self.layers]

    def __call__(
        self, x: Tensor, caches: list[KVCache], seen: int, allowed: Tensor | None = None
    ) -> Tensor:
        """The next block, (B, T, D) → (B, T, D); the caches take it in.

        seen: positions before the block. allowed: (B, 1 or T, P + T), True where a query may attend
        to a key that the chunk-causal mask lets it see, for rows with padding; P = min(seen,
        window).
        """
        batch, positions, width = x.shape
        keys = slice(self.window - min(seen, self.window), self.window + positions)
        bias, mask = self.bias[:, :positions, keys], allowed
        if positions > self.chunk:  # one chunk sees all that is kept
            visible = self.mask[:positions, keys].expand(batch, -1, -1)
            mask = visible if allowed is None else visible & allowed
        x = x.flatten(0, 1)
        for layer, cache in zip(self.layers, caches):
            qkv, gate = layer.project(x)
            q, k, v = qkv.view(batch, positions, 3, -1, layer.config.head_dim).permute(
                2, 0, 3, 1, 4
            )
            k, v = cache.extend(k, v)
            assert gate is not None
            gate = gate.view(batch, positions, -1, 1).transpose(1, 2)
            context = layer.attention(q, k, v, gate=gate, bias=bias, mask=mask)
            x = layer.finish(x, context.transpose(1, 2).reshape(batch * positions, width))
        return x.view(batch, positions, width)
