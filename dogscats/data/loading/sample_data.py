"""The built-in sample dataset: synthetic cats and dogs in the lesson's layout, drawn on first use."""

import random
from pathlib import Path

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.base.files import unfinished_folder
from dogscats.base.locks import locked
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.photos.sample import Kind, draw_animal


def draw_sample(root: Path, seed: int = 0, train: int = 200, valid: int = 100, test: int = 20) -> None:
    """Draw the synthetic sample dataset; the same arguments produce the same files.

    It is drawn next to `root` and renamed when complete, so `root` is never half-written.

    Args:
        root: folder to create.
        seed: seeds all pictures.
        train: number of pictures per class in `train/`.
        valid: number of pictures per class in `valid/`.
        test: number of unlabelled pictures in `test1/`.

    Raises:
        FileExistsError: if `root` exists and is not empty; it is left untouched.
    """
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} exists and is not empty.")
    kinds: tuple[Kind, Kind] = ("cat", "dog")
    wanted: list[tuple[str, Kind, str]] = [
        (f"{split}/{kind}s/{kind}.{number}.jpg", kind, f"{seed}/{split}/{kind}/{number}")
        for split, count in (("train", train), ("valid", valid))
        for kind in kinds
        for number in range(count)
    ]
    for number in range(1, test + 1):
        kind = random.Random(f"{seed}/test1/{number}").choice(kinds)
        wanted.append((f"test1/{number}.jpg", kind, f"{seed}/test1/{kind}/{number}"))
    with unfinished_folder(root) as unfinished:
        for name, kind, key in progress_bar(wanted, "Drawing synthetic photos", len(wanted), "photo"):
            file = unfinished / name
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_animal(kind, key).save(file, quality=random.Random(f"{key}/quality").randint(70, 95))
        unfinished.replace(root)


class SampleDataModule(DogsCatsDataModule):
    """The synthetic sample dataset, drawn on first use; its arguments are those of `DogsCatsDataModule`.

    Example:
        >>> data = SampleDataModule("data/synthetic-sample", size=128)
        >>> data.prepare_data()  # draws 200 + 100 pictures of each class, and 20 without a label

    Raises:
        ArgumentError: for a bad value.
    """

    def prepare_data(self) -> None:
        """Draw the dataset unless it exists.

        Raises:
            UserError: if `root` contains other files.
        """
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.root.with_name(f".{self.root.name}.lock"), f"{self.root}"):
            if not (self.root / "train").is_dir():
                try:
                    draw_sample(self.root)
                except FileExistsError as error:
                    raise UserError(
                        f"data.root={self.root}: it is not the synthetic sample. Choose an empty folder."
                    ) from error
        super().prepare_data()
