"""k-means reads a sample of the shards, drawn by the seed."""

from pipeline.shards.inputs import Shard
from pipeline.training.sample_features import BYTES_PER_FRAME, LEAST_SHARDS, draw_shards

LAKE = [Shard(f"{number:05d}", f"s3://lake/{number:05d}.tar", 10_000_000) for number in range(5000)]


def test_a_lake_is_sampled_and_few_shards_are_all_read():
    drawn = draw_shards(LAKE, 100_000, seed=0)
    assert len(drawn) == LEAST_SHARDS and drawn == sorted(drawn, key=lambda shard: shard.name)
    assert draw_shards(LAKE, 100_000, seed=0) == drawn != draw_shards(LAKE, 100_000, seed=1)
    # From all over the lake.
    numbers = [int(shard.name) for shard in drawn]
    assert all(sum(low <= n < low + 1000 for n in numbers) > 25 for low in range(0, 5000, 1000))
    # More frames than those shards surely hold: more shards, these among them.
    more = draw_shards(LAKE, 1_000_000, seed=0)
    assert len(more) == 1_000_000 * BYTES_PER_FRAME / 10_000_000 and set(drawn) < set(more)
    assert draw_shards(LAKE[:200], 1_000_000, seed=0) == LAKE[:200]
