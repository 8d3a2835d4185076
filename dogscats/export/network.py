"""The network that all export formats contain."""

import copy

import torch
from torch import nn

from dogscats.classifier import Classifier


class Exported(nn.Module):
    """Images `(B, 3, size, size)` uint8 to calibrated probabilities `(B, C)` and, with likeness, `unlike` `(B,)`."""

    def __init__(self, model: Classifier, temperature: float):
        super().__init__()
        self.body, self.heads, self.likeness, self.temperature = model.body, model.heads, model.likeness, temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs."""
        features = self.body(images)
        logits = self.heads.each(features)
        probabilities = (self.heads.mean(logits) / self.temperature).softmax(dim=1)
        if self.likeness is None:
            return probabilities
        return probabilities, self.likeness.unlike(self.likeness(features, logits))


def exported_network(model: Classifier, temperature: float = 1.0) -> Exported:
    """Copy a classifier for inference on the CPU.

    Whatever turns the heads' log-probabilities into the final probabilities belongs here, once for all formats.
    """
    return copy.deepcopy(Exported(model, temperature)).cpu().eval()
