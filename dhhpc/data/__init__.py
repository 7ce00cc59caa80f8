"""Datasets: description, partition, merging; preprocessing on ranks into shards; batches for training."""

from dhhpc.data.check import check_dataset
from dhhpc.data.dataset import Dataset, ImageEntry, Split, describe_dataset, read_dataset, write_dataset
from dhhpc.data.loader import Batch, Loader, Patch
from dhhpc.data.merge import merge
from dhhpc.data.partition import partition
from dhhpc.data.preprocessing import Preprocess, PreprocessSummary, preprocess, read_preprocess
from dhhpc.data.shards import ShardSet

__all__ = [
    "Batch",
    "Dataset",
    "ImageEntry",
    "Loader",
    "Patch",
    "Preprocess",
    "PreprocessSummary",
    "ShardSet",
    "Split",
    "check_dataset",
    "describe_dataset",
    "merge",
    "partition",
    "preprocess",
    "read_dataset",
    "read_preprocess",
    "write_dataset",
]
