"""Benchmarks of dogscats: against fastai, against the limits of the machine, and with growing datasets."""
