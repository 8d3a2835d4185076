"""What a finished run is used for: predictions, evaluation, exports, a page to try it."""
