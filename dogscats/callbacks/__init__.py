"""Callbacks of the lesson: each observes a stage, or sets its learning rates."""
