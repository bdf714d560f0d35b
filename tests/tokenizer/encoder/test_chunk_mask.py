"""The chunk-causal mask, and the bias that is laid out for the same blocks."""

import pytest
import torch

from tokenizer.config import EncoderConfig
from tokenizer.encoder.chunk_mask import block_mask, chunk_causal_mask
from tokenizer.encoder.kv_cache import KVCache
from tokenizer.encoder.relative_position import bias_by_distance, block_bias, position_buckets


@pytest.mark.parametrize(
    "chunk, window", [(1, 1), (1, 5), (2, 6), (4, 4), (4, 7), (4, 12), (5, 3), (3, 100)]
)
def test_the_mask_is_that_of_a_slow_loop(chunk, window):
    queries, past = 23, 14
    mask = block_mask(queries, past, chunk=chunk, window=window)
    assert mask.shape == (queries, past + queries) and mask.dtype == torch.bool
    for query in range(queries):
        chunk_start = 0
        while chunk_start + chunk <= query:
            chunk_start += chunk
        allowed = {
            *range(chunk_start - window, chunk_start),
            *range(chunk_start, chunk_start + chunk),
        }
        for key in range(-past, queries):
            assert bool(mask[query, key + past]) == (key in allowed), (query, key)
            # As FlexAttention's mask_mod calls it: a scalar at a time.
            one = chunk_causal_mask(
                torch.tensor(query), torch.tensor(key), chunk=chunk, window=window
            )
            assert bool(one) == (key in allowed)


def test_whole_chunks_may_be_subtracted_from_all_positions():
    query, key = torch.arange(40)[:, None], torch.arange(40)
    here = chunk_causal_mask(query, key, chunk=4, window=8)
    assert torch.equal(here, chunk_causal_mask(query - 20, key - 20, chunk=4, window=8))
    assert not torch.equal(here, chunk_causal_mask(query - 21, key - 21, chunk=4, window=8))


def test_a_block_has_the_bias_of_each_distance():
    config = EncoderConfig(num_buckets=32, max_bucket_distance=60)
    table = torch.randn(32, 4)
    queries, past = 30, 70
    bias = block_bias(table, queries, past=past, config=config)
    buckets = position_buckets(past + queries, config)
    by_distance = bias_by_distance(table, past + queries, config)
    assert bias.shape == (4, queries, past + queries)
    zero = past + queries - 1
    for query in range(queries):
        for key in range(-past, queries):
            expected = table[buckets[key - query + zero]]
            assert torch.equal(bias[:, query, key + past], expected)
            assert torch.equal(by_distance[:, key - query + zero], expected)


@pytest.mark.parametrize("block", [4, 8])
def test_a_cache_gives_the_last_window_and_the_block(block):
    window, length = 12, 100
    k, v = torch.randn(2, 2, 3, length, 5)
    cache, start = KVCache(window, block), 0
    for size in (4, block, 4, 4, block) * 20:
        if start + size > length:
            break
        keys, values = cache.extend(
            k[..., start : start + size, :], v[..., start : start + size, :]
        )
        first = max(0, start - window)
        assert torch.equal(keys, k[..., first : start + size, :])
        assert torch.equal(values, v[..., first : start + size, :])
        start += size
