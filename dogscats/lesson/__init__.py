"""What the lesson teaches: body and head, stages, learning rates, test-time augmentation. Additions are marked."""
