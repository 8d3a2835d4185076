"""The network that all export formats contain."""

import copy

from torch import nn

from dogscats.classifier import Classifier


def exported_network(model: Classifier) -> nn.Module:
    """Copy a classifier for inference on the CPU: images `(B, 3, size, size)` uint8 to probabilities `(B, C)`.

    Whatever turns the heads' log-probabilities into the final probabilities belongs here, once for all formats.
    """
    return copy.deepcopy(nn.Sequential(model.body, model.heads, nn.Softmax(dim=1))).cpu().eval()
