"""Photos: which they are, how they look, and how they are loaded."""
