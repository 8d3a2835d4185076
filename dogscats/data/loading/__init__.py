"""Photos and precomputed activations in batches, on all ranks."""
