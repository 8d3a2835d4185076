"""Export: files that predict without this project, compared with PyTorch before they are kept."""

FORMATS = ("onnx", "onnx-int8", "torch", "space")
"""Values of `export=` in `conf/evaluate.yaml`."""
