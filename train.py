"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

Reads top to bottom: data, model, then for each stage of the recipe a `fit` of its own, then the report.
`python train.py --help` lists the settings; every run writes a directory of its own below `outputs/`.
"""

import logging
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.activations import activation_loader, precompute
from dogscats.atomic import atomic_path
from dogscats.augmentation_picture import augmentation_picture
from dogscats.backbone import PrecomputedBody
from dogscats.cache import cache_folder
from dogscats.callbacks.history import History
from dogscats.callbacks.lr_trace import LRTrace
from dogscats.callbacks.progress import Progress
from dogscats.checkpoint import AtomicCheckpointIO, save_classifier
from dogscats.classifier import Classifier, Head
from dogscats.console import device_name, quiet_libraries
from dogscats.errors import user_errors_exit
from dogscats.predictions import Predictions
from dogscats.report import RunReport
from dogscats.stage import make_stages

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float:
    """Run every stage of the recipe and write the run directory; return the metric `optimized_metric`."""
    started = time.perf_counter()
    quiet_libraries()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    stages = make_stages(settings["recipe"])
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)

    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    log.info(
        "Data      %s: %d training and %d validation photos of %s",
        data.root, len(data.train.paths), len(data.valid.paths), ", ".join(data.classes),
    )  # fmt: skip

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    body = instantiate(cfg.model)
    torch.manual_seed(cfg.seed)  # the head starts the same whatever the body drew
    head = Head(body.num_features, len(data.classes))
    log.info("Model     %s, %d features", cfg.model._target_.rpartition(".")[2], body.num_features)

    report = RunReport(run_dir, data.classes)
    tensorboard = TensorBoardLogger(
        run_dir / "tensorboard", name="", version="final", default_hp_metric=False
    )
    picture = augmentation_picture(data.train_dataset("augmentation", augment=True))
    with atomic_path(run_dir / "augmentation.png") as temporary:
        to_pil_image(picture).save(temporary)
    tensorboard.experiment.add_image("augmentation", picture)

    features: dict[str, torch.Tensor] = {}
    for stage in stages:
        trainer = instantiate(
            cfg.trainer,
            max_epochs=stage.total_epochs,
            default_root_dir=run_dir,
            logger=TensorBoardLogger(run_dir / "tensorboard", name="", version=stage.name),
            plugins=[AtomicCheckpointIO()],
            callbacks=[
                Progress(),
                LRTrace(run_dir / "lr_trace.csv", stage.name),
                History(run_dir / "history.csv", stage.name),
                ModelCheckpoint(run_dir / "checkpoints", "last", enable_version_counter=False),
            ],
        )
        if stage is stages[0]:
            log.info("Device    %s", device_name(trainer.strategy.root_device))
        log.info("\nStage %s: %d epochs", stage.name, stage.total_epochs)
        stage_started = time.perf_counter()

        train_set, valid_set = data.train_dataset(stage.name, stage.augment), data.valid_dataset()
        if stage.precompute:
            for split, dataset in [("train", train_set), ("valid", valid_set)]:
                if split not in features:
                    features[split] = precompute(
                        body,
                        data.loader(dataset),
                        cache_folder(data.root, cfg.activations.dir),
                        trainer.strategy.root_device,
                        description=f"activations of {split}",
                    )
            train_loader = activation_loader(
                [features["train"]], data.train.labels, data.batch_size, train_set.seed, shuffle=True
            )
            valid_loader = activation_loader(
                [features["valid"]], data.valid.labels, data.batch_size, valid_set.seed
            )
        else:
            train_loader, valid_loader = data.loader(train_set, shuffle=True), data.loader(valid_set)

        classifier = Classifier(
            PrecomputedBody() if stage.precompute else body,
            head,
            len(data.classes),
            stage.group_lrs,
            seed=train_set.seed,
        )
        classifier.freeze_to(stage.freeze_to)
        trainer.fit(classifier, train_loader, valid_loader)

        whole = Classifier(body, head, len(data.classes))
        description = {"model": settings["model"], "classes": data.classes, "size": data.size}
        for name in ["last", *([stage.save] if stage.save else [])]:
            save_classifier(run_dir / "checkpoints" / f"{name}.ckpt", whole, description)
        figures = {
            name: trainer.callback_metrics[name].item() for name in ("train_loss", "valid_loss", "valid_acc")
        }
        seconds = round(time.perf_counter() - stage_started, 3)
        report.add_stage(stage.name, {"epochs": stage.total_epochs, **figures, "seconds": seconds})

    outputs = trainer.predict(classifier, valid_loader)
    indices, probabilities = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    predictions = Predictions(
        data.valid.paths, data.classes, torch.tensor(data.valid.labels), probabilities[indices.argsort()]
    )
    report.finish(predictions, time.perf_counter() - started)
    report.summarise()
    return report.metric(cfg.optimized_metric)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train as configured; a user's mistake ends it with one message and exit code 1."""
    with user_errors_exit(), logging_redirect_tqdm():
        return train(cfg)


if __name__ == "__main__":
    main()
