"""The verdict on a photo: its prediction, why, and what is like it."""

from contextlib import suppress
from pathlib import Path

from PIL import Image

from dogscats.base.errors import Failure, UserError
from dogscats.base.text import shown
from dogscats.data.pixels.images import UnreadableImageError, picture_of, thumbnail
from dogscats.predict.demo.demo_page import Picture, Refused, Verdict
from dogscats.predict.predictor import Predictor
from dogscats.report.figures.photo_figures import overlay

SIMILAR_SIDE = 320
"""Longest side of a similar photo, in pixels."""


def judge(predictor: Predictor, file: Path) -> Verdict:
    """Predict a photo as `evaluate.py predict=` does, and explain the prediction.

    Without test-time augmentation, which depends on the path: an upload has a new one each time.

    Raises:
        Refused: if the photo cannot be read.
    """
    try:
        predictions, unreadable = predictor.predict(file, n_aug=0)
        if unreadable:
            raise Refused(_reason(file, unreadable.popitem()[1]))
        (explanation,) = predictor.explain(predictions)
    except UserError as error:  # such as too little memory
        raise Refused(_reason(file, str(error))) from error
    (predicted,), decisions = predictions.predicted_classes, predictions.decisions
    decided = not decisions or decisions[0] == predicted
    where = (
        f"Where it sees {shown(predicted)}" if decided else f"Where it would see {shown(predicted)} if it had to choose"
    )
    return Verdict(
        probabilities=dict(zip(map(shown, predictor.classes), predictions.probabilities[0].tolist(), strict=True)),
        decision=shown(decisions[0]) if decisions else None,
        seen=[
            Picture(picture_of(explanation.image), "What the network sees"),
            Picture(Image.fromarray(overlay(explanation)), where),
        ],
        similar=_similar(predictor, file),
    )


def _reason(file: Path, message: str) -> str:
    """Say why there is no verdict, without the path on this machine, and without a full stop."""
    return shown(message).removeprefix(f"{shown(file)}: ").rstrip(".")


def _similar(predictor: Predictor, file: Path) -> list[Picture]:
    """Return the training photos that are most similar, if the run knows them and they are still there."""
    root, pictures = predictor.trained_on.get("root"), []
    if root is None or not Path(root).is_dir():
        return []
    try:
        (found,) = predictor.similar([file], count=3)
    except UserError:  # an older run
        return []
    for path, similarity in found:
        with suppress(UnreadableImageError, Failure):  # removed or damaged since
            photo = thumbnail(Path(root) / path, SIMILAR_SIDE)
            pictures.append(Picture(photo, f"{shown(path)}, {similarity:.2f}"))
    return pictures
