"""Cross-validation of a setting on `train/` alone: `python -m benchmarks.cross_validation root=...`.

5-fold: each photo of `train/` is predicted by heads trained on the other four folds, on precomputed activations, as in
the first stage of the recipe. Settings can thus be chosen without `valid/`, which remains for the final evaluation.
Prints JSON: accuracy and log loss of the plain photos and, with `n_aug`, with test-time augmentation. For a kernel head
also those of leave-one-out, and the standard error of its accuracy. Cross-validation, with a fifth fewer photos to
learn from, should be lower by at most two of these.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torch.nn.functional import nll_loss
from torch.optim.swa_utils import update_bn

from benchmarks.ours import REPOSITORY
from benchmarks.settings import from_command_line
from dogscats.base.console import quiet_libraries
from dogscats.base.content import cache_folder
from dogscats.base.errors import UserError, user_errors_exit
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler, activation_loader
from dogscats.data.photos.layouts import Photos
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.lesson.sgdr import SGDR
from dogscats.lesson.stage import Stage, make_stages

FOLDS = 5


@dataclass
class CrossValidation:
    """Settings of the cross-validation.

    Attributes:
        root: folder with `train/<class>/`.
        overrides: further arguments of `train.py`.
        seeds: number of seeds to average the metrics over; the folds are the same for all seeds.
        n_aug: number of augmented versions for test-time augmentation; 0 for none.
        new_statistics: whether to replace the pretrained BatchNorm statistics of the body by those of these photos.
    """

    root: str
    overrides: list[str] = field(default_factory=list)
    seeds: int = 3
    n_aug: int = 0
    new_statistics: bool = False


def cross_validate(
    versions: Sequence[torch.Tensor],
    labels: torch.Tensor,
    stage: Stage,
    batch_size: int,
    seed: int,
    count: int,
    widths: Sequence[int] = (),
) -> torch.Tensor:
    """Predict each photo by heads that were trained without it.

    Args:
        versions: features `(N, F)` of the plain photos, used for training, then of augmented versions.
        labels: class indices `(N,)`.
        stage: stage with the training settings.
        batch_size: photos per batch.
        seed: seeds the heads, batch order and dropout.
        count: number of heads.
        widths: number of features of each depth, for a stage in closed form.

    Returns:
        Probabilities `(versions, N, classes)`.
    """
    classes = int(labels.max()) + 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    probabilities = torch.empty(len(versions), len(labels), classes)
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        seen = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        if stage.is_closed_form:
            heads: Heads | KernelHead = KernelHead.fit(versions[0][seen], labels[seen], classes, widths).head
        else:
            heads = trained(versions[0][seen], labels[seen], classes, stage, batch_size, seed, count)
        with torch.inference_mode():
            for version, features in enumerate(versions):
                probabilities[version, held_out] = heads.eval()(features[held_out]).exp()
    return probabilities


def trained(
    features: torch.Tensor, labels: torch.Tensor, classes: int, stage: Stage, batch_size: int, seed: int, count: int
) -> Heads:
    """Train heads on features `(N, F)`; arguments as for `cross_validate`."""
    torch.manual_seed(seed)
    heads = Heads(features.shape[1], classes, count)
    classifier = Classifier(PrecomputedBody(), classes, heads, stage.group_lrs(), seed)
    batches = SharedBatchSampler(EpochSampler(len(features), seed), batch_size, training=True)
    trainer = Trainer(
        max_epochs=stage.total_epochs,
        accelerator="cpu",
        callbacks=[SGDR(stage.cycle_len, stage.cycle_mult)] if stage.cycles else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    photos = Photos(Path(), [""] * len(features), labels.tolist())
    trainer.fit(classifier, activation_loader(ActivationDataset([features], photos, seed), batches))
    return heads


def measure(settings: CrossValidation) -> dict[str, float]:
    """Compute the activations, and cross-validate the heads on them.

    Raises:
        UserError: for bad overrides, or a recipe whose first stage does not have `precompute=true`.
    """
    try:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            cfg = compose("train", [f"data.root={settings.root}", *settings.overrides])
    except HydraException as error:
        raise UserError(f"overrides: {error}") from error
    recipe: Any = OmegaConf.to_container(cfg.recipe, resolve=True)
    stage = make_stages(recipe)[0]
    if not stage.precompute:
        raise UserError(f"recipe.{stage.name}: cross-validation needs a first stage with precompute=true.")
    data: DogsCatsDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    body: Backbone = instantiate(cfg.model)
    plain = data.train_dataset("cross_validation", augment=False)
    if settings.new_statistics:
        update_bn(data.loader(plain, shuffle=True, persistent=False), body)
    augmented = data.train_dataset("cross_validation", augment=True)
    folder, cpu = cache_folder(data.root, cfg.activations.dir), torch.device("cpu")
    versions = [precompute(body, data.loader(plain, persistent=False), folder, cpu)] + [
        precompute(body, data.loader(augmented, persistent=False), folder, cpu, view) for view in range(settings.n_aug)
    ]
    labels, widths = torch.tensor(data.train.labels), body.widths(data.size)
    seeds = 1 if stage.is_closed_form else settings.seeds  # which do not matter there
    predicted = torch.stack(
        [cross_validate(versions, labels, stage, data.batch_size, seed, cfg.heads, widths) for seed in range(seeds)]
    )

    def metrics(probabilities: torch.Tensor, suffix: str) -> dict[str, float]:
        return {
            f"accuracy{suffix}": (probabilities.argmax(dim=-1) == labels).double().mean().item(),
            f"log_loss{suffix}": sum(nll_loss(p.log(), labels).item() for p in probabilities) / seeds,
        }

    plain_metrics = metrics(predicted[:, 0], "")
    if stage.is_closed_form:
        fit = KernelHead.fit(versions[0], labels, len(data.classes), widths)
        deviation = (fit.accuracy * (1 - fit.accuracy)) ** 0.5
        plain_metrics |= {"loo_acc": fit.accuracy, "loo_loss": fit.log_loss}
        plain_metrics["standard_error"] = deviation / len(labels) ** 0.5
    return plain_metrics | (metrics(predicted.mean(dim=1), "_tta") if settings.n_aug else {})


if __name__ == "__main__":
    quiet_libraries()
    with user_errors_exit():
        print(json.dumps(measure(from_command_line(CrossValidation("???")))))
