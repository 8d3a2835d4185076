"""What the rest stands on: errors, text, files, locks and signals. It knows nothing of photos or networks."""
