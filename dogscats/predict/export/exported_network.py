"""The network that all export formats contain."""

import copy

import torch
from torch import nn

from dogscats.lesson.classifier import Classifier
from dogscats.reliability.strangers import StrangerDetector


class Exported(nn.Module):
    """Images `(B, 3, size, size)` uint8 to calibrated probabilities `(B, C)` and, with a scorer, `unlike` `(B,)`."""

    def __init__(self, model: Classifier, temperature: float):
        super().__init__()
        self.body, self.heads, self.scorer, self.temperature = model.body, model.heads, model.scorer, temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs."""
        if not isinstance(self.scorer, StrangerDetector):
            return self.probabilities(self.heads.each(self.body(images)))
        computed = self.scorer.compute(self.body, self.heads, images)
        return self.probabilities(computed.logits), self.scorer.unlike(self.scorer.scores(computed))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute calibrated probabilities `(B, C)` of the logits of each head `(heads, B, C)`."""
        return (self.heads.mean(logits) / self.temperature).softmax(dim=1)


def exported_network(model: Classifier, temperature: float = 1.0) -> Exported:
    """Copy a classifier for inference on the CPU.

    Whatever turns the heads' log-probabilities into the final probabilities belongs here, once for all formats.
    """
    return copy.deepcopy(Exported(model, temperature)).cpu().eval()
