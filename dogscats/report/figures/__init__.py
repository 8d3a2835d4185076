"""Figures: functions from predictions, curves or photos to a matplotlib Figure."""
