"""The Ray cluster a job runs on: the one it was submitted to, or its own on this machine."""

import logging
import os
import sys
from pathlib import Path

import ray

PROJECT = Path(__file__).resolve().parent.parent.parent


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start one here.

    Workers of a cluster started here find the project from any working directory; those of another
    cluster get it with the job, as its working directory.
    """
    if ray.is_initialized():
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    # A cluster for one job on one machine is private: no usage statistics, no dashboard.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    print("starting Ray on this machine ...", file=sys.stderr, flush=True)
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )


def disconnect() -> None:
    """Stop the cluster that `connect` started on this machine, if it started one.

    Ray's own processes compete with a training for cores: on two cores they cost a fifth of its
    speed.
    """
    if "RAY_ADDRESS" not in os.environ:
        ray.shutdown()
