"""Training on ranks: the experiment file, the trainer, checkpoints, evaluation, prediction, run records."""

from dhhpc.training.evaluation import evaluate
from dhhpc.training.experiment import Experiment, read_experiment
from dhhpc.training.network import load_network, use_threads
from dhhpc.training.prediction import predict
from dhhpc.training.preparation import check
from dhhpc.training.run_record import RunRecord, find_runs, read_run
from dhhpc.training.stopping import Stopped
from dhhpc.training.trainer import train

__all__ = [
    "Experiment",
    "RunRecord",
    "Stopped",
    "check",
    "evaluate",
    "find_runs",
    "load_network",
    "predict",
    "read_experiment",
    "read_run",
    "train",
    "use_threads",
]
