"""What jobs/import_weights.py and jobs/export_weights.py do: read, convert, publish."""

import argparse
from collections.abc import Callable
from pathlib import Path

from jobs.cli import flags
from jobs.cli.descriptions import about_lm, about_tokenizer, print_next, print_rows
from lm.files import FORMAT as LM_FORMAT
from lm.files import read_lm, save_lm
from lm.wavslm import DEFAULTS, export_wavslm, import_wavslm
from tokenizer.errors import UsageError
from tokenizer.published.checkpoint import write_checkpoint
from tokenizer.published.export_focalcodec import export_focalcodec, left_out
from tokenizer.published.focalcodec import import_focalcodec
from tokenizer.published.kmeans import import_kmeans, read_centroids
from tokenizer.published.names import is_numbered
from tokenizer.published.source import FOCALCODEC, HUB_ID, KMEANS, WAVSLM, Published, find_published
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.json_file import read_object
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Flags that only some kinds of weights have a use for.
USED_BY = {"tokenizer": WAVSLM, "encoder": KMEANS, "layer": KMEANS, "metric": KMEANS}


def import_weights(args: argparse.Namespace) -> int:
    """Convert what --from names, write it to --output, and say what it is."""
    output = free_output(args.output)
    source = flags.named("--from", find_published, args.source)
    for name, kind in USED_BY.items():
        if getattr(args, name) is not None and kind != source.kind:
            raise flags.unusable(
                f"--{name}",
                getattr(args, name),
                problem=f"it is for {kind}, and {args.source} is {source.kind}",
                remedy="leave it out",
            )
    if source.kind == WAVSLM:
        return _import_lm(args, source, output)
    files, kind = _kmeans(args, source) if source.kind == KMEANS else _codec(source)
    publish(output, files.save)
    print_rows({"kind": kind, **about_tokenizer(files)}, args.output)
    tokens = f"--tokenizer {args.output} --output out/tokens"
    speech = f"--tokenizer {args.output} --output out/speech"
    following = ("detokenize", f"--input out/tokens {speech}")
    if not files.vocoder:
        following = ("train_vocoder", f"--input SHARDS {speech}")
    print_next(("tokenize", f"--input SHARDS {tokens}"), following)
    return 0


def _codec(source: Published) -> tuple[TokenizerFiles, str]:
    """The tokenizer of a FocalCodec, and what kind it is."""
    with flags.naming("--from", source.given):
        config, weights = source.read()
        files = import_focalcodec(config, weights, source.given)
    version = "v0.0.1" if is_numbered(set(weights)) else "v0.0.2"
    return files, f"{source.kind}, with the tensor names of {version}"


def _kmeans(args: argparse.Namespace, source: Published) -> tuple[TokenizerFiles, str]:
    """The tokenizer of k-means centroids, and what kind it is."""
    remedy = "give a .npy array (K, D), or a file that joblib wrote"
    with flags.naming("--from", args.source, remedy):
        centroids = read_centroids(source.path)
    for name in ("encoder", "layer"):
        if getattr(args, name) is None:
            raise flags.unusable(
                "--from",
                args.source,
                problem=f"it is k-means, which needs --{name}",
                remedy="say which encoder and layer the centroids were made of",
            )
    config, weights = flags.encoder(args.encoder, args.layer)
    with flags.naming("--encoder", args.encoder):
        files = import_kmeans(
            centroids, config, weights, metric=args.metric or "l2", source=args.source
        )
    return files, f"{source.kind} of {args.encoder}"


def _import_lm(args: argparse.Namespace, source: Published, output: Folder) -> int:
    with flags.naming("--from", args.source):
        config, weights = source.read()
    tokenizer = _lm_tokenizer(args.tokenizer, config)
    with flags.naming("--from", args.source, "give a WavSLM and its codec"):
        model = import_wavslm(config, weights, tokenizer=tokenizer, source=args.source)
    made_by = {"method": "imported", "from": args.source, "config": config}
    publish(output, lambda folder: save_lm(folder, model, tokenizer=tokenizer, made_by=made_by))
    print_rows({"kind": source.kind, **about_lm(model), **about_tokenizer(tokenizer)}, args.output)
    print_next(
        ("generate", f"--lm {args.output} --prompt SPEECH.wav --output out/continued"),
        ("evaluate", f"lm --lm {args.output} --input TOKENS"),
        ("train_lm", f"--start {args.output} --input TOKENS --output out/tuned"),
    )
    return 0


def _lm_tokenizer(given: str | None, config: dict) -> TokenizerFiles:
    """The codec of a WavSLM, from --tokenizer, or as its configuration says."""
    remedy = "import its codec with jobs/import_weights.py, and give that as --tokenizer"
    if given:
        folder = flags.named("--tokenizer", fetch_folder, given, "a tokenizer")
        with flags.naming("--tokenizer", given, remedy):
            return TokenizerFiles.read(folder)
    codec = str(config.get("codec_config", DEFAULTS["codec_config"]))
    try:
        if not HUB_ID.fullmatch(codec) and not Path(codec).exists():
            raise UsageError("it is no hub id", value=codec)
        source = find_published(codec)
        if source.kind != FOCALCODEC:
            raise UsageError(f"it is {source.kind}", value=codec)
        return _codec(source)[0]
    except UsageError as error:
        error.argument, error.remedy = "--tokenizer", remedy
        error.problem = f"its config.json names this codec: {error.problem}"
        raise


def export_weights(args: argparse.Namespace) -> int:
    """Convert the tokenizer or language model that --from names, and write it to --output."""
    output = free_output(args.output)
    folder = flags.named("--from", fetch_folder, args.source, "a tokenizer or language model")
    if _config(folder).get("format") == LM_FORMAT:
        return _export_lm(args, folder, output)
    if args.codec_config:
        raise flags.unusable(
            "--codec-config",
            args.codec_config,
            problem=f"it is for a language model, and {args.source} is none",
            remedy="leave it out",
        )
    with flags.naming("--from", args.source, "give the folder of a tokenizer or language model"):
        files = TokenizerFiles.read(folder)
        config, weights = export_focalcodec(files)
    publish(output, lambda folder: write_checkpoint(folder, config, weights))
    print_rows({"kind": FOCALCODEC, **about_tokenizer(files)}, args.output)
    _print_notes(files)
    return 0


def _config(folder: Path) -> dict:
    """A folder's config.json; empty where it has none: its reader will say what is wrong."""
    try:
        return read_object(folder / "config.json")
    except UsageError:
        return {}


def _export_lm(args: argparse.Namespace, folder: Path, output: Folder) -> int:
    with flags.naming("--from", args.source, "give the folder of a language model that fits"):
        model, files = read_lm(folder)
        model.tokenizer_files = files
        codec_config = args.codec_config or _codec_config(folder, output)
        config, weights = export_wavslm(model, codec_config)
        assert files is not None  # or it would have been refused
        codec, codec_weights = export_focalcodec(files)

    def write(folder: Path) -> None:
        write_checkpoint(folder / "codec", codec, codec_weights)
        write_checkpoint(folder, config, weights)

    publish(output, write)
    print_rows({"kind": WAVSLM, **about_lm(model), **about_tokenizer(files)}, args.output)
    print(f"its codec is in {args.output}/codec; their code loads {codec_config}")
    _print_notes(files)
    return 0


def _print_notes(files: TokenizerFiles) -> None:
    """What the exported codec does differently."""
    for note in left_out(files):
        print(f"note: {note}")


def _codec_config(folder: Path, output: Folder) -> str:
    """The hub id that an imported model came with, or else the path of the exported codec."""
    made_by = _config(folder).get("made_by")
    theirs = made_by.get("config") if isinstance(made_by, dict) else None
    given = theirs.get("codec_config") if isinstance(theirs, dict) else None
    if given and HUB_ID.fullmatch(str(given)):
        return given
    if not output.local:
        raise flags.unusable(
            "--output",
            output.given,
            problem="their code finds no codec at a URL",
            remedy="give a local folder, or --codec-config",
        )
    return f"{output.url}/codec/model.json"


def free_output(url: str) -> Folder:
    """The folder to write to; nothing is made yet. Raises UsageError where it holds a model."""
    output = flags.named("--output", Folder, url)
    try:
        taken = output.fs.exists(output.path("config.json"))
    except Exception as error:  # whatever a store raises, this folder cannot be used
        raise output.unusable(error) from error
    if taken:
        raise output.refused("it holds a config.json already", "give another folder")
    return output


def publish(output: Folder, save: Callable[[Path], None]) -> None:
    """Let `save` fill a local folder, and put its files into `output`, config.json last."""
    with scratch_folder() as scratch:
        save(scratch)
        output.check_free("config.json")
        try:
            output.publish_folder(scratch)
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise output.unusable(error) from error
        finally:
            output.sweep()
