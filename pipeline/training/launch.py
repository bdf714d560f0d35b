"""Training by Ray Train, in processes of their own: one for each GPU, or on the CPU."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.actor import ActorHandle

from pipeline.cluster.progress import TrainingBoard, shown
from pipeline.openmp import waiting_variables
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
    progress is reported to. Raises TrainingFailed when a process ends in an error or is killed.
    """
    board: Any = ray.remote(num_cpus=0)(TrainingBoard).remote()
    run_config: Any = ray.train.RunConfig  # its declared type lacks the last argument
    with scratch_folder() as scratch, shown(board):
        trainer = ray.train.torch.TorchTrainer(
            function,
            train_loop_config={"run": make_run(board)},
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=device == "cuda"),
            run_config=run_config(
                name=name,
                storage_path=str(scratch),
                worker_runtime_env={"env_vars": waiting_variables()},
            ),
        )
        try:
            _fit(trainer)
        except ray.train.WorkerGroupError as error:
            raise TrainingFailed(_why(next(iter(error.worker_failures.values())))) from error
        except ray.train.ControllerError as error:
            raise TrainingFailed(_why(error.controller_failure)) from error
        except ray.exceptions.RayActorError as error:  # of the controller
            raise TrainingFailed(_why(error)) from error


def _why(error: BaseException) -> str:
    """What ended a process of a training."""
    error = getattr(error, "health_check_failure", error)
    cause = getattr(error, "cause", None) or error
    # Our own errors say all there is to say; the type of another one helps.
    if isinstance(cause, TrainingFailed | UsageError):
        return str(cause)
    if isinstance(cause, ray.exceptions.RayActorError):
        return "a process of the training was killed, perhaps for want of memory; run it again"
    return one_line(cause)


def _fit(trainer: Any) -> None:
    """Train, and raise what ended the training.

    In a thread of its own: in the main one Ray Train puts its own handler in place of the job's,
    and Ctrl-C ends with status 1 and without a word.
    """
    ended: Future[None] = Future()

    def work() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    Thread(target=work, daemon=True).start()
    ended.result()
