"""Runs of `train.py`: composing, Trainers, ranks, checkpoints, resuming and sweeps."""
