"""Export: files that predict without this project, compared with PyTorch before they are kept."""
