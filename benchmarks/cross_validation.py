"""How well a setting does on photos of `train/` alone: `python -m benchmarks.cross_validation root=...`.

Each photo of `train/` is predicted by heads that were trained without it, on four fifths of the photos, as
the first stage of the recipe trains them on precomputed activations. So a setting can be chosen, and `valid/`
be kept to judge the choice. Prints JSON: the accuracy and log loss of the plain photo and, if wanted, of the
mean over it and augmented versions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from dogscats.activations import activation_loader, precompute
from dogscats.backbone import Backbone, PrecomputedBody
from dogscats.cache import cache_folder
from dogscats.callbacks.sgdr import SGDR
from dogscats.classifier import Classifier
from dogscats.console import quiet_libraries
from dogscats.data import DogsCatsDataModule
from dogscats.errors import UserError, user_errors_exit
from dogscats.heads import Heads
from dogscats.samplers import EpochSampler, SharedBatchSampler
from dogscats.stage import Stage, make_stages

FOLDS = 5


@dataclass
class CrossValidation:
    """What is judged.

    Attributes:
        root: folder with `train/<class>/`.
        overrides: further arguments of `train.py`.
        seeds: number of seeds that the figures are the mean of; the folds are the same with each.
        n_aug: number of augmented versions for the mean; 0 for none.
        new_statistics: give BatchNorm of the body the statistics of these photos for the pretrained ones.
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
) -> torch.Tensor:
    """Predict each photo by heads that have not seen it.

    Args:
        versions: features `(N, F)` of the plain photos, which the heads learn from, and of augmented ones.
        labels: class indices `(N,)`.
        stage: trains the heads.
        batch_size: photos in a batch.
        seed: of the heads, the order of batches and dropout.
        count: number of heads.

    Returns:
        Probabilities `(versions, N, classes)`.
    """
    classes = int(labels.max()) + 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    probabilities = torch.empty(len(versions), len(labels), classes)
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        seen = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        torch.manual_seed(seed)
        heads = Heads(versions[0].shape[1], classes, count)
        classifier = Classifier(PrecomputedBody(), heads, classes, stage.group_lrs, seed)
        batches = SharedBatchSampler(EpochSampler(len(seen), seed), batch_size, training=True)
        trainer = Trainer(
            max_epochs=stage.total_epochs,
            accelerator="cpu",
            callbacks=[SGDR(stage.cycle_len, stage.cycle_mult)] if stage.cycles else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = activation_loader([versions[0][seen]], labels[seen].tolist(), batches, seed)
        trainer.fit(classifier, loader)
        with torch.inference_mode():
            for version, features in enumerate(versions):
                probabilities[version, held_out] = heads.eval()(features[held_out]).exp()
    return probabilities


def measure(settings: CrossValidation) -> dict[str, float]:
    """Compute the activations, and cross-validate the heads on them.

    Raises:
        UserError: for bad overrides, and a recipe whose first stage is not one with `precompute=true`.
    """
    try:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            cfg = compose("train", [f"data.root={settings.root}", *settings.overrides])
    except HydraException as error:
        raise UserError(f"overrides: {error}") from error
    recipe: Any = OmegaConf.to_container(cfg.recipe, resolve=True)
    stage = make_stages(recipe)[0]
    if not stage.precompute:
        raise UserError(f"recipe.{stage.name}: only a first stage with precompute=true can be judged.")
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
        precompute(body, data.loader(augmented, persistent=False), folder, cpu, view)
        for view in range(settings.n_aug)
    ]
    labels = torch.tensor(data.train.labels)
    predicted = torch.stack(
        [
            cross_validate(versions, labels, stage, data.batch_size, seed, cfg.heads)
            for seed in range(settings.seeds)
        ]
    )

    def figures(probabilities: torch.Tensor, suffix: str) -> dict[str, float]:
        return {
            f"accuracy{suffix}": (probabilities.argmax(dim=-1) == labels).double().mean().item(),
            f"log_loss{suffix}": sum(nll_loss(p.log(), labels).item() for p in probabilities)
            / settings.seeds,
        }

    plain_figures = figures(predicted[:, 0], "")
    return plain_figures | (figures(predicted.mean(dim=1), "_tta") if settings.n_aug else {})


if __name__ == "__main__":
    quiet_libraries()
    with user_errors_exit():
        print(json.dumps(measure(from_command_line(CrossValidation("???")))))
