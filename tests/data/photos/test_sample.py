import hashlib
from pathlib import Path

import pytest
from PIL import Image

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.data.loading.sample_data import SampleDataModule, draw_sample
from dogscats.data.photos.sample import draw_animal


def contents(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_layout_is_the_lessons_and_the_files_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in [("first", 0), ("again", 0), ("other", 1)]:
        draw_sample(tmp_path / name, seed, train=3, valid=2, test=4)
    first = contents(tmp_path / "first")
    assert [name for name in first if name.startswith("train")] == [
        f"train/{kind}s/{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(3)
    ]
    assert [name for name in first if name.startswith("test1")] == [f"test1/{n}.jpg" for n in range(1, 5)]
    assert len(first) == len(set(first.values())) == 14
    assert contents(tmp_path / "again") == first
    other = contents(tmp_path / "other")
    assert not set(other.values()) & set(first.values())


def test_pictures_vary_in_size_and_look() -> None:
    pictures = [draw_animal("cat", number) for number in range(12)]
    assert len({picture.size for picture in pictures}) > 8
    means = [sum(picture.resize((1, 1)).getpixel((0, 0))) for picture in pictures]  # type: ignore[arg-type]
    assert max(means) - min(means) > 60
    assert draw_animal("cat", 3).tobytes() != draw_animal("dog", 3).tobytes()


def test_the_module_draws_what_is_missing_and_then_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(root: Path) -> None:
        draw_sample(root, train=3, valid=2, test=1)

    monkeypatch.setattr("dogscats.data.loading.sample_data.draw_sample", small)
    module = SampleDataModule(tmp_path / "deeper" / "sample", size=32, batch_size=2, num_workers=0)
    module.prepare_data()
    before = contents(module.root)
    module.prepare_data()
    assert contents(module.root) == before
    module.setup()
    assert module.classes == ["cats", "dogs"]
    assert len(module.train.paths) == 6
    plain = DogsCatsDataModule(module.root, size=32, batch_size=2, num_workers=0)
    plain.prepare_data()
    plain.setup()
    assert plain.train.paths == module.train.paths


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not the synthetic sample"):
        SampleDataModule(tmp_path).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_drawing_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Image.Image:
        raise OSError("disk full")

    monkeypatch.setattr("dogscats.data.loading.sample_data.draw_animal", broken)
    with pytest.raises(OSError, match="disk full"):
        draw_sample(tmp_path / "sample", train=1, valid=1, test=1)
    assert not list(tmp_path.iterdir())
