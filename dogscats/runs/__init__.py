"""Infrastructure of runs: directories, checkpoints, resuming, atomic files, ranks, sweeps and errors."""
