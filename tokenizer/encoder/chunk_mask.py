"""The chunk-causal attention mask: which positions a position may attend to.

Time is cut into chunks. A position sees its own chunk whole, a bounded window of positions before
the chunk, and nothing after it: the attention of FocalCodec-Stream (arXiv 2509.16195) and of WavSLM
(arXiv 2603.05299). A chunk of one position is plain causal attention with a sliding window.

The encoder, its training and the language model all take their masks from here.
"""

import torch
from torch import Tensor


def chunk_causal_mask(query: Tensor, key: Tensor, *, chunk: int, window: int) -> Tensor:
    """Boolean, True where a query may attend to a key: c - window <= key < c + chunk.

    c = query - query mod chunk is the first position of the query's chunk. query, key: integer
    positions that broadcast, counted from the first position of any chunk; keys before that are
    negative. Also works inside a FlexAttention mask_mod, where both are scalars.
    """
    first = query - query % chunk
    return (key >= first - window) & (key < first + chunk)


def block_mask(queries: int, past: int, *, chunk: int, window: int) -> Tensor:
    """(queries, past + queries): the mask of a block of queries and the keys from `past` before it.

    The block starts where a chunk starts.
    """
    query, key = torch.arange(queries)[:, None], torch.arange(-past, queries)
    return chunk_causal_mask(query, key, chunk=chunk, window=window)
