"""What every job takes from jobs/cli, under one name: `from jobs.cli import flags`.

Nothing heavy is imported here or by a job before its command line is read, so that --help answers
at once.
"""

import argparse

from jobs.cli.encoders import (
    add_device,
    add_encoder_actors,
    add_encoders,
    encoder_settings,
    settled_precision,
    tokenize_settings,
    warn_of_bf16,
)
from jobs.cli.errors import named, naming, run, unusable
from jobs.cli.models import (
    add_lm,
    add_tokenizer,
    chosen_device,
    device_and_precision,
    encoder,
    read_model,
    read_tokenizer,
)
from jobs.cli.parser import (
    add_commands,
    add_input,
    add_max_reject_rate,
    add_output,
    count,
    not_negative,
    parser,
    positive,
    positive_number,
    rate,
)

__all__ = [
    "add_commands",
    "add_device",
    "add_encoder_actors",
    "add_encoders",
    "add_input",
    "add_lm",
    "add_max_reject_rate",
    "add_output",
    "add_tokenizer",
    "argparse",
    "chosen_device",
    "count",
    "device_and_precision",
    "encoder",
    "encoder_settings",
    "named",
    "naming",
    "not_negative",
    "parser",
    "positive",
    "positive_number",
    "rate",
    "read_model",
    "read_tokenizer",
    "run",
    "settled_precision",
    "tokenize_settings",
    "unusable",
    "warn_of_bf16",
]
