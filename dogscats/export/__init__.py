"""Export: files that predict without this project, compared with PyTorch before they are kept."""

FORMATS = ("onnx", "onnx-int8", "torch")
"""Values of `export=` in `conf/evaluate.yaml`."""
