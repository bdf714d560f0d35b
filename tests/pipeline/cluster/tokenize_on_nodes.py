"""A driver for tests: jobs/tokenize.py, with a GPU reserved for each encoder, which uses none.

The cluster's nodes say that they have a GPU each, so that an encoder fills one.
"""

import sys

from jobs.cli import flags


def main() -> int:
    """INPUT TOKENIZER OUTPUT → exit status, as of jobs/tokenize.py."""
    source, tokenizer, output = sys.argv[1:]
    from pipeline.settings import EncoderSettings, TokenizeSettings
    from pipeline.shards.inputs import find_shards
    from pipeline.tokenize.job import open_output, tokenize

    root, shards = find_shards([source])
    run = open_output(
        output,
        flags.read_tokenizer(tokenizer),
        source=tokenizer,
        settings=TokenizeSettings(),
        inputs_root=root,
    )
    encoders = EncoderSettings(device="cpu", cpus_per_encoder=1, gpus_per_encoder=1, wait_seconds=5)
    return int(bool(tokenize(shards, run, encoders)["failed"]))


if __name__ == "__main__":
    flags.run(main)
