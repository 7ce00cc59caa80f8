"""Datasets: description, partition, merging; preprocessing on ranks into shards; batches for training."""
