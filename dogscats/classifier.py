"""The classifier: a pretrained body with one or more of the lesson's heads."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dogscats.backbone import Backbone, PrecomputedBody
from dogscats.data import Batch
from dogscats.heads import Heads
from dogscats.seed import stable_seed
from dogscats.stage import GROUPS


class Classifier(LightningModule):
    """Body and heads, trained by SGD with a learning rate for each layer group.

    A stage has a Classifier of its own around the same body and heads, so that each begins where the one
    before it ended.

    Args:
        body: network from batches of inputs to features `(B, F)`.
        heads: from features to the logarithms of probabilities `(B, num_classes)`.
        num_classes: number of classes.
        lrs: learning rates of the groups early, late and head.
        seed: of dropout, which is a function of it and the training step.
    """

    def __init__(
        self,
        body: Backbone | PrecomputedBody,
        heads: Heads,
        num_classes: int,
        lrs: Sequence[float] = (1e-4, 1e-3, 1e-2),
        seed: int = 0,
    ):
        super().__init__()
        self.body, self.heads, self.lrs, self.seed = body, heads, lrs, seed
        # Their checks of values would make a GPU wait at every step; a loss that is NaN shall show as NaN.
        # Without the checks torchmetrics 1.9 ignores weights, so that each photo's loss is given by itself.
        self.train_loss, self.valid_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.valid_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the logarithms of the classes' probabilities `(B, num_classes)`.

        Args:
            inputs: photos `(B, 3, H, W)`, or features `(B, F)`.
        """
        log_probabilities: torch.Tensor = self.heads(self.body(inputs))
        return log_probabilities

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """List the modules of each layer group; each stands for its own parameters alone."""
        return dict(zip(GROUPS, [*self.body.layer_groups(), list(self.heads.modules())], strict=True))

    def freeze_to(self, first: int, train_batchnorm: bool = True) -> None:
        """Train the layer groups from number `first` on, and freeze those before it.

        A frozen group has no gradients, and its BatchNorm normalises by the running statistics and leaves
        them as they are. Without `train_batchnorm` so does BatchNorm in the trained groups of the body, whose
        weights are trained all the same.
        """
        fixed = set() if train_batchnorm else set(self.body.modules())
        for number, modules in enumerate(self.layer_groups().values()):
            for module in modules:
                keeps_statistics = module in fixed and isinstance(module, _BatchNorm)
                module.training = number >= first and not keeps_statistics
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(number >= first)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the lesson's SGD over all groups, with momentum 0.9 and no weight decay."""
        groups = [
            {
                "params": [p for module in modules for p in module.parameters(recurse=False)],
                "lr": lr,
                "name": name,
            }
            for (name, modules), lr in zip(self.layer_groups().items(), self.lrs, strict=True)
        ]
        return torch.optim.SGD(groups, momentum=0.9)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the step, so that a resumed run goes on as if it had not stopped."""
        torch.manual_seed(stable_seed(self.seed, self.global_step, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Compute the loss of a batch: the sum over the heads, so that each learns as it would alone."""
        features, count = self.body(batch.inputs), len(self.heads)
        if features.requires_grad:  # the body learns from the mean over the heads
            features.register_hook(lambda gradient: gradient / count)
        logits = self.heads.each(features).flatten(end_dim=1)
        losses = nnf.cross_entropy(logits, batch.labels.repeat(count), reduction="none")
        self.train_loss(losses.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return count * losses.mean()

    def on_validation_start(self) -> None:
        """Give all processes the running statistics of the first: they saw other photos, and so differ."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the epoch's loss and accuracy."""
        log_probabilities = self(batch.inputs)
        self.valid_loss(nnf.nll_loss(log_probabilities, batch.labels, reduction="none"))
        self.valid_acc(log_probabilities, batch.labels)
        self.log("valid_loss", self.valid_loss)
        self.log("valid_acc", self.valid_acc, prog_bar=True)

    def predict_step(self, batch: Batch, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the photos' indices `(B,)` and the classes' probabilities `(B, num_classes)`."""
        return batch.indices, self(batch.inputs).exp()
