"""The checkpoint whose features suspects are searched by."""

from pathlib import Path

from dogscats.base.trust import load_config
from dogscats.lesson.stage import GROUPS, make_stages


def frozen_checkpoint(run: Path, trust: bool = False) -> Path | None:
    """Return a checkpoint of a run from before its body was trained: a trained one knows wrong labels by heart.

    Args:
        run: run directory.
        trust: allow code from outside dogscats that its config names.

    Returns:
        The checkpoint; `None` if the first one that was saved has a trained body.
    """
    checkpoints = run / "checkpoints"
    saved = None
    for stage in make_stages(load_config(run / "config.yaml", trust)["recipe"]):
        if stage.freeze_to < GROUPS.index("head"):
            return saved
        if stage.save and (file := checkpoints / f"{stage.save}.ckpt").is_file():
            saved = file
    return saved or checkpoints / "last.ckpt"
