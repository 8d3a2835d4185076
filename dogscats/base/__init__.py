"""Foundation of all rooms: errors, text, files, locks, signals and trust. It knows nothing of photos or networks."""
