"""Lightning callbacks of the lesson: thin wrappers around schedules and plots.

They take their context from the Trainer and the Classifier: files go to `trainer.default_root_dir`, and the stage name
is `classifier.stage`. Their config therefore has only settings.
"""
