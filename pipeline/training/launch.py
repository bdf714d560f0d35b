"""Training by Ray Train, in processes of their own: one for each GPU, or on the CPU."""

from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.actor import ActorHandle

from pipeline.cluster.progress import TrainingBoard, shown
from tokenizer.errors import TrainingFailed, UsageError, one_line
from tokenizer.storage.scratch import scratch_folder


def run_in_processes(
    name: str,
    function: Callable[[dict], None],
    *,
    make_run: Callable[[ActorHandle], object],
    device: str,
    workers: int,
) -> None:
    """Call function({"run": make_run(board)}) in each process, and show its progress.

    function: of a module, so that the process can import it. make_run: gets the TrainingBoard that
    progress is reported to. Raises TrainingFailed when a process ends in an error.
    """
    board: Any = ray.remote(num_cpus=0)(TrainingBoard).remote()
    with scratch_folder() as scratch, shown(board):
        trainer = ray.train.torch.TorchTrainer(
            function,
            train_loop_config={"run": make_run(board)},
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=device == "cuda"),
            run_config=ray.train.RunConfig(name=name, storage_path=str(scratch)),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            why = next(iter(error.worker_failures.values()))
            why = getattr(why, "cause", None) or why
            # Our own errors say all there is to say; the type of another one helps.
            ours = isinstance(why, TrainingFailed | UsageError)
            raise TrainingFailed(str(why) if ours else one_line(why)) from error
