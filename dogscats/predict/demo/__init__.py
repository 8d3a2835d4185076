"""The page to try a run: `python -m dogscats.demo run=<run>`."""
