"""Suspects: photos that may have a wrong label, may be duplicates or leaks, or do not belong in the dataset."""
