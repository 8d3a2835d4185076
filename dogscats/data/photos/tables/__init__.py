"""Which photos a dataset has: its layouts, splits and labels."""
