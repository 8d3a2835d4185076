"""Pretrained networks other than the lesson's ResNet34, as backbones."""
