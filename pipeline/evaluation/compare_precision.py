"""How many tokens change with the encoder's precision: the same audio in fp32 and in bf16."""

from dataclasses import replace

from pipeline.settings import EncoderSettings
from pipeline.shards.inputs import Shard
from pipeline.tokenize.job import TokenizeRun, open_output, tokenize
from tokenizer.storage.token_folder import TokenFolder

OTHER = {"fp32": "bf16", "bf16": "fp32"}


def precision_figures(
    shards: list[Shard],
    run: TokenizeRun,
    *,
    source: str,
    inputs_root: str,
    encoder_settings: EncoderSettings,
) -> tuple[dict[str, float | int | str | None], list[str]]:
    """Tokenize the shards in the precision that `run` has not, and compare.

    shards: of one finished run, whose tokens are there. The others are made below its folder, as an
    OUTPUT of its own. Returns figures and problems: compared_tokens; equal_tokens, the share that
    is the same in utterances of one length; other_lengths, utterances whose number of tokens
    differs. Both outputs are read as streams, an utterance of each at a time.
    """
    settings = replace(run.settings, precision=OTHER[run.settings.precision])
    other = open_output(
        run.folder.below(settings.precision).url,
        run.files,
        source=source,
        settings=settings,
        inputs_root=inputs_root,
    )
    summary = tokenize(shards, other, encoder_settings)
    problems = [
        f"shard {name} failed in {settings.precision}: {why}; it is not compared"
        for name, why in summary["failed"].items()
    ]
    names = [shard.name for shard in shards if shard.name not in summary["failed"]]
    equal = tokens = other_lengths = 0
    if names:
        made, again = TokenFolder.open(run.folder.url), TokenFolder.open(other.folder.url)
        for name in names:
            # Audio alone decides what is rejected, so both have the same utterances.
            for one, two in zip(made.read(name), again.read(name), strict=True):
                if len(one.tokens) != len(two.tokens):
                    other_lengths += 1
                    continue
                tokens += len(one.tokens)
                equal += int((one.tokens == two.tokens).sum())
    figures: dict[str, float | int | str | None] = {
        "compared_tokens": tokens,
        "equal_tokens": equal / tokens if tokens else None,
        "other_lengths": other_lengths,
    }
    return figures, problems
