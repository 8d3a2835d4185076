"""Photos besides those of the dataset: strangers, which are of no class, and rows of a table of new labels."""
