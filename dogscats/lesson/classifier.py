"""The classifier: a pretrained body and one or more heads."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as nnf
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MetricCollection

from dogscats.base.content import stable_seed
from dogscats.base.errors import ArgumentError
from dogscats.base.trust import rebuild
from dogscats.data.loading.dataset import Batch
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.heads import Heads, rebuilt_kernel_head
from dogscats.lesson.metrics import epoch_metrics
from dogscats.lesson.stage import GROUPS, OPTIMIZERS, Stage


class Scorer(Protocol):
    """Computes `S` scores per photo as it is predicted; the classifier need not know what they mean. Not in the lesson.

    Attributes:
        num_scores: number of scores per photo, `S`.
    """

    num_scores: int

    def __call__(
        self, body: Backbone | PrecomputedBody, heads: Heads | KernelHead, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities `(B, C)`, as `Classifier.forward` does, and scores `(B, S)`."""

    def unlike(self, scores: torch.Tensor) -> torch.Tensor:
        """Combine scores `(N, S)` into how unlike the training photos each photo is `(N,)`, from 0 to 1."""


class Classifier(LightningModule):
    """Body and heads, trained with discriminative learning rates: one per layer group.

    It maps what the body takes, RGB `(B, 3, H, W)`, uint8, to log-probabilities `(B, C)`.

    Example:
        >>> classifier = Classifier(resnet34(), classes=["cats", "dogs"])
        >>> classifier.freeze_to(2)  # the head alone
        >>> Trainer(max_epochs=3, callbacks=[SGDR(cycle_len=1)]).fit(classifier, data)

    Args:
        model: network that maps inputs to features `(B, F)`; or its config from a checkpoint, which is built with
            random weights.
        classes: class names, or number of classes.
        heads: number of heads to average, 1 in the lesson; existing heads to share; or the `config` of a kernel head.
        lrs: learning rates of the groups early, late and head.
        seed: seeds dropout, together with the batch number.
        stage: name of the stage, in logs and files.
        optimizer: `sgd` (momentum 0.9, as in the lesson) or `adamw`.
        weight_decay: weight decay of the optimizer.
        class_weights: weight of each class in the training loss; `None` for equal weights.

    Attributes:
        scorer: scores photos in the pass that predicts them; `None`, or that of a trained classifier.
        scores: what the scorer gave for the last batch of plain photos `(B, S)`.

    Raises:
        UserError: for bad heads, a bad number of class weights, an unknown optimizer, or a model config that
            refers to a class or function outside dogscats.
    """

    loss_weights: torch.Tensor | None
    scorer: Scorer | None
    scores: torch.Tensor

    def __init__(
        self,
        model: Backbone | PrecomputedBody | Mapping[str, Any],
        classes: Sequence[str] | int,
        heads: int | Mapping[str, Any] | Heads | KernelHead = 1,
        lrs: Sequence[float] = (1e-4, 1e-3, 1e-2),
        seed: int = 0,
        stage: str = "fit",
        optimizer: str = "sgd",
        weight_decay: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        self.classes = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
        if isinstance(classes, str) or len(self.classes) < 2:
            raise ArgumentError("", f"classes={classes}: expected the names of at least two classes, or their number.")
        if len(lrs) != len(GROUPS):
            raise ArgumentError("", f"lrs={lrs}: expected one for each of {', '.join(GROUPS)}.")
        if optimizer not in OPTIMIZERS:
            raise ArgumentError("", f"optimizer={optimizer}: expected {' or '.join(OPTIMIZERS)}.")
        if class_weights is not None and len(class_weights) != len(self.classes):
            raise ArgumentError("", f"class_weights={class_weights}: expected {len(self.classes)}, one for each class.")
        body = model if isinstance(model, nn.Module) else rebuild(Backbone, model, source="checkpoint")
        if isinstance(heads, Mapping):
            heads = rebuilt_kernel_head(len(self.classes), heads)
        elif not isinstance(heads, Heads | KernelHead):
            heads = Heads(body.num_features, len(self.classes), heads)
        self.body, self.scorer = body, None
        self.heads, self.lrs, self.seed, self.stage = heads, list(lrs), seed, stage
        self.optimizer, self.weight_decay, self.class_weights = optimizer, weight_decay, class_weights
        weights = None if class_weights is None else torch.tensor([float(weight) for weight in class_weights])
        self.register_buffer("loss_weights", weights, persistent=False)
        # Arguments for `Classifier.load_from_checkpoint`.
        config: dict[str, Any] = {"model": body.config, "classes": self.classes, "heads": heads.config, "lrs": self.lrs}
        config |= {"seed": seed, "optimizer": optimizer, "weight_decay": weight_decay}
        config |= {"class_weights": None if class_weights is None else list(class_weights)}
        self.save_hyperparameters(config, logger=False)
        metrics = epoch_metrics(len(self.classes))
        self.valid_metrics, self.test_metrics = metrics.clone("valid_"), metrics.clone("test_")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities `(B, C)`.

        Args:
            inputs: photos `(B, 3, H, W)`, or features `(B, F)`.
        """
        log_probabilities: torch.Tensor = self.heads(self.body(inputs))
        return log_probabilities

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """List the modules of each layer group, children too: only parameters registered directly on each count."""
        return dict(zip(GROUPS, [*self.body.layer_groups(), list(self.heads.modules())], strict=True))

    def freeze_to(self, first: int, train_batchnorm: bool = True) -> None:
        """Train the layer groups from index `first` on, and freeze those before it.

        A frozen group gets no gradients, and its BatchNorm uses and keeps the running statistics. Without
        `train_batchnorm`, BatchNorm in the body's trained groups also keeps them, but its weights are trained.
        Lightning keeps these modes during a fit: it does not call `train()`, and restores them after each validation.

        Args:
            first: 0 for all groups, 1 for late and head, 2 for the head.
            train_batchnorm: whether BatchNorm in the body's trained groups updates its statistics, as in the lesson.
        """
        if first not in range(len(GROUPS)):
            raise ArgumentError("", f"first={first}: expected 0 (all), 1 (late, head) or 2 (head).")
        fixed = set() if train_batchnorm else set(self.body.modules())
        for number, modules in enumerate(self.layer_groups().values()):
            for module in modules:
                keeps_statistics = module in fixed and isinstance(module, _BatchNorm)
                module.training = number >= first and not keeps_statistics
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(number >= first)

    def for_stage(self, stage: Stage, seed: int) -> "Classifier":
        """Make the classifier for a stage. It shares the heads, and the body unless activations are precomputed.

        Each stage continues from the weights of the previous one. `lrs` holds ratios to the head's rate; train.py sets
        the real rates before the fit.

        Args:
            stage: the stage.
            seed: seeds dropout.
        """
        body = PrecomputedBody() if stage.precompute else self.body
        arguments: Any = (stage.lr_ratios, seed, stage.name, stage.optimizer, stage.weight_decay, self.class_weights)
        classifier = Classifier(body, self.classes, self.heads, *arguments)
        classifier.freeze_to(stage.freeze_to, stage.train_batchnorm)
        classifier.scorer = self.scorer
        return classifier

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **arguments: Any) -> "Classifier":  # type: ignore[override]
        """Load a checkpoint as Lightning does, but never execute code in it.

        `model=<Backbone>` replaces a backbone defined outside dogscats.
        """
        return super().load_from_checkpoint(checkpoint_path, **arguments | {"weights_only": True})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer, with one parameter group per layer group; by default the lesson's SGD."""
        groups = [
            {"params": [p for module in modules for p in module.parameters(recurse=False)], "lr": lr, "name": name}
            for (name, modules), lr in zip(self.layer_groups().items(), self.lrs, strict=True)
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=self.weight_decay)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by batch number, so that a resumed run matches an uninterrupted one."""
        number = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        torch.manual_seed(stable_seed(self.seed, number, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Compute the loss of a batch, summed over the heads; log its mean over them."""
        features, count = self.body(batch.inputs), len(self.heads)
        if features.requires_grad:  # the body gets the mean gradient over the heads
            features.register_hook(lambda gradient: gradient / count)
        logits = self.heads.each(features).flatten(end_dim=1)
        loss = nnf.cross_entropy(logits, batch.labels.repeat(count), self.loss_weights)  # mean over the heads
        self._log_mean("train_loss", loss, batch, on_step=False, on_epoch=True)
        return count * loss  # summed, so that each head learns as it would alone

    def on_validation_start(self) -> None:
        """Broadcast the running statistics of rank 0; they differ across ranks, which saw different photos."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation loss and metrics."""
        self._evaluate(batch, "valid_loss", self.valid_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test loss and metrics."""
        self._evaluate(batch, "test_loss", self.test_metrics)

    def predict_step(
        self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return photo indices `(B,)` and class probabilities `(B, C)`.

        Photos of the first loader, the plain ones, are also scored: `scores` has the scores of the last batch `(B, S)`.
        """
        if self.scorer is None or dataloader_idx > 0:
            return batch.indices, self(batch.inputs).exp()
        log_probabilities, self.scores = self.scorer(self.body, self.heads, batch.inputs)
        return batch.indices, log_probabilities.exp()

    def _evaluate(self, batch: Batch, loss: str, metrics: MetricCollection) -> None:
        log_probabilities = self(batch.inputs)
        self._log_mean(loss, nnf.nll_loss(log_probabilities, batch.labels), batch)
        metrics.update(log_probabilities, batch.labels)
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch.labels))

    def _log_mean(self, name: str, value: torch.Tensor, batch: Batch, **options: Any) -> None:
        """Log the mean over all photos of an epoch, across ranks."""
        self.log(name, value, batch_size=len(batch.labels), sync_dist=True, **options)
