"""Token shards as the language model reads them: rows, their order, and what a position is."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_lm import small_config

from lm.config import PAD, START, LMError
from lm.model import targets
from lm.training import rows
from lm.training.data import TokenShards
from lm.training.rows import RowLayout, RowStream, validation_batches
from pipeline.settings import ImportSettings
from pipeline.shards.inputs import find_files
from pipeline.tokenize.import_tokens import import_tokens
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import TokenFolder, check_shard_tokenizer
from tokenizer.storage.token_shards import TokenShardError

CHUNK, LENGTH = 4, 32


def imported(folder, utterances, output=None, codes=None, shard_tokens=150):
    """An OUTPUT of these utterances; returns its URL."""
    lines = folder / "lines.jsonl"
    lines.write_text(
        "".join(json.dumps({"key": f"k{n}", "units": u}) + "\n" for n, u in enumerate(utterances))
    )
    _, files = find_files([str(lines)], (".jsonl",))
    output = output or str(folder / "tokens")
    import_tokens(
        files,
        Folder(output),
        ImportSettings(codebook_size=codes, tokens_per_second=50.0, shard_tokens=shard_tokens),
    )
    return output


@pytest.fixture(scope="module")
def utterances():
    """60 of 1 to 40 tokens each; the tokens of an utterance are all its number."""
    lengths = np.random.default_rng(0).integers(1, 40, 60).tolist()
    return [[number] * length for number, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def output(utterances, tmp_path_factory):
    return imported(tmp_path_factory.mktemp("tokens"), utterances)


def batching(count=4, **more) -> RowLayout:
    return RowLayout(rows=count, row_tokens=LENGTH, chunk=CHUNK, seed=3, **more)


def drawn(tokens, count, batching, readers=0):
    """`count` batches of a stream."""
    stream = RowStream(tokens, batching, readers)
    return [next(stream) for _ in range(count)]


def test_every_utterance_once_an_epoch_with_its_borders(output, utterances):
    tokens, _ = TokenShards.open(output)
    assert len(tokens.shards) > 5 and tokens.num_tokens == sum(map(len, utterances))
    positions = sum(CHUNK + -(-len(u) // CHUNK) * CHUNK for u in utterances)
    epoch = -(-positions // LENGTH)
    batches = drawn(tokens, 3 * epoch, batching(1))
    passes = []
    for number in range(3):
        part = batches[number * epoch : (number + 1) * epoch]
        stream = np.concatenate([row[0] for row, _ in part])
        marks = np.concatenate([utterance[0] for _, utterance in part])
        assert ((stream == PAD) | (marks >= 0)).all() and (marks >= -1).all()
        # Chunk by chunk: a START begins an utterance, which then has its tokens and only PAD more.
        chunks = stream.reshape(-1, CHUNK)
        starts = (chunks == START).all(1)
        assert ((stream == START).reshape(-1, CHUNK).any(1) == starts).all()
        seen = []
        for piece in np.split(chunks, np.flatnonzero(starts))[1:]:
            inner = piece[1:].flatten()
            inner = inner[inner != PAD].tolist()
            assert inner == utterances[inner[0]]
            seen.append(inner[0])
        assert sorted(seen) == list(range(len(utterances)))
        passes.append(seen)
    assert passes[0] != passes[1] != passes[2] and passes[0] != sorted(passes[0])
    # Within a row, utterances are numbered from 0, and change where a START is.
    for row, utterance in batches:
        steps = np.diff(utterance[0], prepend=0)
        assert utterance[0, 0] == 0 and set(steps[steps != 0]) <= {1, -1 - utterance[0].max()}
        begins = ((row[0, ::CHUNK] == START) & (utterance[0, ::CHUNK] >= 0))[1:]
        assert (begins.numpy() == (steps.reshape(-1, CHUNK)[1:, 0] == 1)).all()


def test_ranks_parts_and_readers_share_one_order(output, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_TOKENS", 200)
    monkeypatch.setattr(rows, "BLOCKS_PER_LANE", 1)
    tokens, _ = TokenShards.open(output)
    whole = drawn(tokens, 40, batching(8))
    ranks = [drawn(tokens, 80, batching(8, world=2, rank=r, accumulate=2)) for r in range(2)]
    for step, (expected, numbers) in enumerate(whole):
        parts = [rank[2 * step + part] for part in range(2) for rank in ranks]
        together = torch.cat([part[0] for part in parts]).tolist()
        assert sorted(together) == sorted(expected.tolist())
        assert sum(part[1].sum() for part in parts) == numbers.sum()
    # Several lanes, and still over a long time all are learnt from alike.
    counts = torch.bincount(torch.cat([t[t >= 0] for t, _ in whole]), minlength=60)
    lengths = np.array([len(u) for u in tokens_of(tokens)])
    passes = counts.numpy() / lengths
    assert len(rows._Rows(tokens, batching(8)).blocks) == 4
    assert passes.max() - passes.min() <= 2 and passes.min() > 2


def tokens_of(tokens):
    """The utterances, in order."""
    return [utterance for _, utterance in tokens.utterances()]


def test_readers_in_processes_give_the_same_rows(output):
    tokens, _ = TokenShards.open(output)
    for here, there in zip(drawn(tokens, 5, batching()), drawn(tokens, 5, batching(), readers=2)):
        assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


def test_a_stream_resumes_from_its_position(output, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_TOKENS", 200)
    monkeypatch.setattr(rows, "KEPT_TOKENS", 0)
    tokens, _ = TokenShards.open(output)
    undisturbed = drawn(tokens, 60, batching(accumulate=2))
    stream = RowStream(tokens, batching(accumulate=2))
    for _ in range(34):
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    assert state == {"rows": 17 * 4}
    again = RowStream(tokens, batching(accumulate=2))
    again.load_state_dict(state)
    for expected in undisturbed[34:]:
        got = next(again)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    with pytest.raises(LMError, match="whole batches"):
        again.load_state_dict({"rows": 17})


def test_a_damaged_report_is_named_and_how_to_mend_it(output, tmp_path):
    copy = shutil.copytree(output, tmp_path / "copy")
    report = sorted((copy / "reports").iterdir())[0]
    report.write_bytes(report.read_bytes()[:-9])
    with pytest.raises(UsageError, match=rf"{report.name} is damaged.*remove that report"):
        TokenShards.open(str(copy))


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("chunk", [1, 4])
def test_validation_predicts_every_token_once(tmp_path, chunk, start):
    long = [*range(300)]
    url = imported(tmp_path, [[300] * 5, long, [301], [302] * 27], shard_tokens=10)
    tokens, _ = TokenShards.open(url)
    seen = []
    config = small_config(400, chunk=chunk, start=start)
    for batch, utterance in validation_batches(tokens, config, 32, rows=3):
        assert batch.shape[1] == 32 and len(batch) <= 3
        wanted = targets(batch, utterance, chunk)
        seen += wanted[wanted >= 0].tolist()
    first = 0 if start else chunk
    utterances = [[300] * 5, long, [301], [302] * 27]
    assert sorted(seen) == sorted(token for said in utterances for token in said[first:])
    # The same number, before any of it is read.
    assert tokens.num_predicted(config.unscored_tokens) == len(seen)


def test_without_start_rows_hold_the_tokens_alone(output, utterances):
    tokens, _ = TokenShards.open(output)
    layout = batching(1, start=False)
    used = [said for said in utterances if len(said) > CHUNK]
    assert tokens.num_shorter(CHUNK) == len(utterances) - len(used) > 0
    epoch = -(-sum(-(-len(said) // CHUNK) * CHUNK for said in used) // LENGTH)
    (batches,) = [drawn(tokens, epoch, layout)]
    rows = torch.cat([batch for batch, _ in batches])
    assert not (rows == START).any()
    found = torch.bincount(rows[rows >= 0], minlength=len(utterances)).tolist()
    assert found == [len(said) if len(said) > CHUNK else 0 for said in utterances]
    # Targets are of the same utterance, a chunk later; only cuts and first chunks have none.
    for batch, utterance in batches:
        wanted = targets(batch, utterance, CHUNK)
        assert ((wanted == batch) | (wanted < 0)).all()
        borders = 1 + int((utterance[:, 1:] != utterance[:, :-1]).sum())
        assert int((wanted < 0).sum()) <= CHUNK * borders + int((batch == PAD).sum())


def test_held_out_share_is_by_key(tmp_path):
    url = imported(tmp_path, [[1, 2]] * 500, shard_tokens=100)
    train, valid = TokenShards.open(url, 0.2)
    keys = [{key for key, _ in part.utterances()} for part in (train, valid)]
    assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == 500
    assert 70 < len(keys[1]) < 130 and valid.num_tokens == 2 * len(keys[1])
    assert sum(len(train.read(n)) for n in range(len(train.shards))) == len(keys[0])


def test_a_store_and_a_shard_without_report(s3, utterances, tmp_path, monkeypatch):
    s3.reach(monkeypatch)
    url = imported(tmp_path, utterances, "s3://speech/lm/tokens")
    tokens, _ = TokenShards.open(url)
    assert [utterance.tolist() for utterance in tokens_of(tokens)] == utterances
    s3.client.delete_object(
        Bucket="speech", Key=f"lm/tokens/reports/{tokens.shards[0].name}.parquet"
    )
    fewer, _ = TokenShards.open(url + "/")
    assert [shard.name for shard in fewer.shards] == [s.name for s in tokens.shards[1:]]


def test_tokens_and_tokenizer_must_belong_together(output, tmp_path):
    imported_tokens = TokenFolder.open(output, argument="input")
    imported_tokens.check_tokenizer(None)
    with pytest.raises(UsageError) as refused:
        imported_tokens.check_tokenizer("0123456789abcdef", "some/folder")
    needed = "tokens of tokenizer 0123456789ab (some/folder) are needed"
    assert f"input {output}: its tokens are of no tokenizer, and {needed}" in str(refused.value)
    # A shard by its URL: of its OUTPUT's tokenizer, or of none that anybody knows.
    shard = f"{output}/shards/{imported_tokens.names[0]}.tar"
    check_shard_tokenizer(shard, None)
    with pytest.raises(UsageError, match="tokenizer 0123456789ab are needed"):
        check_shard_tokenizer(shard, "0123456789abcdef")
    for elsewhere in ("a.tar", "nothing/shards/a.tar"):
        check_shard_tokenizer(str(tmp_path / elsewhere), "0123456789abcdef")


def test_what_is_no_output_is_refused(output, tmp_path):
    for name, message in (("nothing", "no run.json"), ("empty", "no finished shard")):
        folder = tmp_path / name
        folder.mkdir()
        if name == "empty":
            (folder / "run.json").write_text('{"codebook_size": 4}')
        with pytest.raises(UsageError, match=message):
            TokenShards.open(str(folder))
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "codebook_size": 59}))
    tokens, _ = TokenShards.open(str(copy))
    with pytest.raises(TokenShardError, match="outside the codebook of 59"):
        tokens_of(tokens)
    (copy / "run.json").write_text(json.dumps(record))
    path = copy / "reports" / f"{tokens.shards[0].name}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(TokenShardError, match="not in its report"):
        TokenShards.open(str(copy))[0].read(0)
    with pytest.raises(LMError, match="evenly"):
        batching(4, world=3)
    with pytest.raises(LMError, match="chunks"):
        RowLayout(rows=4, row_tokens=30, chunk=CHUNK, seed=0)
