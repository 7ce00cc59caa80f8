"""Training on ranks: the experiment file, the trainer, checkpoints, evaluation, prediction, run records."""

from dhhpc.training.ensemble import evaluate_series, load_ensemble
from dhhpc.training.evaluation import evaluate
from dhhpc.training.experiment import Experiment, read_experiment
from dhhpc.training.network import Ensemble, Predictor, load_network, use_threads
from dhhpc.training.prediction import predict
from dhhpc.training.preparation import check
from dhhpc.training.run_record import RunRecord, find_runs, read_run
from dhhpc.training.running import train
from dhhpc.training.series import Series, holds_series, read_series
from dhhpc.training.series_summary import series_folders, shown_summary, write_summary
from dhhpc.training.series_training import train_series
from dhhpc.training.staging import Staging, staged, staged_for_training
from dhhpc.training.stopping import Stopped

__all__ = [
    "Ensemble",
    "Experiment",
    "Predictor",
    "RunRecord",
    "Series",
    "Staging",
    "Stopped",
    "check",
    "evaluate",
    "evaluate_series",
    "find_runs",
    "holds_series",
    "load_ensemble",
    "load_network",
    "predict",
    "read_experiment",
    "read_run",
    "read_series",
    "series_folders",
    "shown_summary",
    "staged",
    "staged_for_training",
    "train",
    "train_series",
    "use_threads",
    "write_summary",
]
