"""Training in processes of Ray Train: one for each GPU, or one on the CPU."""

import tempfile
from collections.abc import Callable

import ray.train
import ray.train.torch
from torch import distributed

from pipeline.cluster.progress import TrainingBoard, shown
from tokenizer.errors import one_line
from tokenizer.training.loop import TrainingFailed


def run_in_processes(
    name: str, function: Callable, make_run: Callable, device: str, workers: int
) -> None:
    """Call function({"run": make_run(board)}) in each process, and show what they write there.

    function: of a module, so that a process finds it. Raises TrainingFailed when one ends in an
    error.
    """
    board = ray.remote(num_cpus=0)(TrainingBoard).remote()
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch, shown(board):
        trainer = ray.train.torch.TorchTrainer(
            function,
            train_loop_config={"run": make_run(board)},
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=device == "cuda"),
            run_config=ray.train.RunConfig(name=name, storage_path=scratch),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            why = next(iter(error.worker_failures.values()))
            why = getattr(why, "cause", None) or why
            # That a loss is no number says all there is to say; of another error its type helps.
            said = isinstance(why, TrainingFailed | FloatingPointError)
            raise TrainingFailed(str(why) if said else one_line(why)) from error


def this_rank() -> int:
    """Which of the training processes this is; 0 where there is one alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0
