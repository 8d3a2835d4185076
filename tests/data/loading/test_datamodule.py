import itertools
from pathlib import Path

import pytest
import torch
from conftest import draw_root

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, UserError, user_message
from dogscats.data.loading.dataset import Batch
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler
from dogscats.data.pixels import transforms
from dogscats.data.pixels.images import UnreadableImageError, read_image


def module(root: Path, **settings: object) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, **{"size": 24, "batch_size": 5, "num_workers": 0, **settings})  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def batches(root: Path, workers: int, epochs: int = 2, stage: str = "s", seed: int = 0) -> list[Batch]:
    data = module(root, num_workers=workers, seed=seed)
    loader = data.loader(data.train_dataset(stage, augment=True), shuffle=True)
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        torch.rand(3 * workers + 1)  # whatever else draws from the global generator must not matter
        found.extend(loader)
    return found


def test_batches_are_a_function_of_the_seed_for_any_number_of_workers(shared_root: Path) -> None:
    torch.manual_seed(1)
    none = batches(shared_root, 0)
    for workers in (1, 2):
        torch.manual_seed(workers + 1)
        others = batches(shared_root, workers)
        assert len(none) == len(others) == 10
        for ours, theirs in zip(none, others, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_made_before_the_epoch_is_chosen_gives_that_epoch(shared_root: Path, workers: int) -> None:
    """As Lightning makes it when it resumes; also after an epoch that was left unfinished."""
    data = module(shared_root, num_workers=workers)
    loader = data.loader(data.train_dataset("s", augment=True), shuffle=True)
    next(iter(loader))
    iterator = iter(loader)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    for ours, theirs in zip(iterator, batches(shared_root, 0)[5:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_order_and_augmentation_change_with_epoch_stage_and_seed(shared_root: Path) -> None:
    def images(batches: list[Batch]) -> torch.Tensor:
        order = torch.cat([b.indices for b in batches]).argsort()
        return torch.cat([b.inputs for b in batches])[order]

    def order(batches: list[Batch]) -> list[int]:
        return torch.cat([b.indices for b in batches]).tolist()

    both = batches(shared_root, 0)
    first, second = both[:5], both[5:]
    others = [second, batches(shared_root, 0, 1, stage="t"), batches(shared_root, 0, 1, seed=1)]
    for other in others:
        assert sorted(order(other)) == list(range(24))
        assert order(first) != order(other)
        assert (images(first) != images(other)).flatten(1).any(1).float().mean() > 0.9


def test_loading_leaves_the_global_generator_alone(shared_root: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    batches(shared_root, 0, epochs=1)
    torch.rand(1)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.rand(2)  # the two draws of `batches` and of this test
    assert torch.equal(after, torch.get_rng_state())


def test_batches_are_channels_last_uint8(shared_root: Path) -> None:
    data = module(shared_root)
    batch = next(iter(data.val_dataloader()))
    assert batch.inputs.shape == (5, 3, 24, 24)
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_validation_photos_come_whole_and_in_order(shared_root: Path) -> None:
    data = module(shared_root)
    assert data.classes == ["cats", "dogs"]
    found = list(data.val_dataloader())
    assert torch.cat([b.indices for b in found]).tolist() == list(range(10))
    assert torch.cat([b.labels for b in found]).tolist() == [0] * 5 + [1] * 5
    expected = transforms.none(24)(read_image(shared_root / "valid/cats/cat.0.jpg"))
    assert torch.equal(found[0].inputs[0], expected)


@pytest.mark.parametrize(("batch_size", "sizes"), [(7, [7, 7, 7, 3]), (23, [23])])
def test_only_a_last_batch_of_one_photo_is_dropped(shared_root: Path, batch_size: int, sizes: list[int]) -> None:
    data = module(shared_root, batch_size=batch_size)
    assert [len(batch.labels) for batch in data.train_dataloader()] == sizes


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [24, 25, 27, 29])
def test_ranks_share_the_batches_of_one(size: int, training: bool) -> None:
    def epoch(rank: int, world_size: int) -> list[list[int]]:
        sampler = EpochSampler(size, seed=4 if training else None)
        batches = SharedBatchSampler(sampler, 8, training, rank, world_size)
        batches.set_epoch(3)
        found = [[index for index, _ in batch] for batch in batches]
        assert len(found) == len(batches)
        return found

    alone = epoch(0, 1)
    shares = [epoch(rank, 2) for rank in range(2)]
    together = [sorted(itertools.chain(*batch)) for batch in itertools.zip_longest(*shares, fillvalue=[])]
    if training:
        # An odd photo, and a last batch with less than two for each, are dropped: every rank takes the same steps.
        assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]]
        assert len(shares[0]) == {24: 3, 25: 3, 27: 3, 29: 4}[size]
        for ours, theirs in zip(together, alone, strict=False):
            assert set(ours) <= set(theirs)
            assert len(ours) == len(theirs) // 2 * 2
    else:
        assert together == alone
        assert sorted(itertools.chain(*together)) == list(range(size))


def test_any_number_of_classes_natural_order_and_limit(tmp_path: Path) -> None:
    root = draw_root(tmp_path, train=12, valid=2, classes=("ants", "bees", "cats"))
    data = module(root, limit=11)
    assert data.classes == ["ants", "bees", "cats"]
    assert data.train.paths[9:12] == ["train/ants/ant.9.jpg", "train/ants/ant.10.jpg", "train/bees/bee.0.jpg"]
    assert len(data.train.paths) == 33
    assert len(data.valid.paths) == 6


def test_linked_folders_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    elsewhere = draw_root(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    for split in ("train", "valid"):
        (tmp_path / "root" / split).symlink_to(elsewhere / split)
    (elsewhere / "train" / "cats" / "again").symlink_to(elsewhere / "train" / "cats")
    assert len(module(tmp_path / "root").train.paths) == 24


@pytest.mark.parametrize("content", [b"", b"no photo", "truncated"])
def test_an_unreadable_photo_is_named(root: Path, content: bytes | str) -> None:
    victim = root / "train/dogs/dog.7.jpg"
    victim.write_bytes(victim.read_bytes()[:700] if isinstance(content, str) else content)
    with pytest.raises(UnreadableImageError):
        read_image(victim)
    with pytest.raises(UserError, match=r"1 photos? cannot be read(.|\n)*dog\.7\.jpg: "):
        module(root)


def test_a_check_is_remembered_until_a_file_changes(root: Path) -> None:
    module(root)
    assert len(list((root / "tmp").glob("checked-*.json"))) == 1
    module(root)
    assert len(list((root / "tmp").glob("checked-*.json"))) == 1
    (root / "valid/cats/cat.0.jpg").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"cat\.0\.jpg"):
        module(root)


def test_mistakes_in_the_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder(.|\n)*dogscats.zip"):
        module(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no folder train/(.|\n)*dogscats.zip"):
        module(tmp_path / "empty")
    hollow = draw_root(tmp_path / "hollow")
    for photo in (hollow / "valid/dogs").iterdir():
        photo.unlink()
    with pytest.raises(UserError, match=r"valid.dogs: there are no photos"):
        module(hollow)
    with pytest.raises(UserError, match="only one class, 'cats'"):
        module(draw_root(tmp_path / "single", classes=("cats",)))
    differing = draw_root(tmp_path / "differing")
    (differing / "valid" / "dogs").rename(differing / "valid" / "wolves")
    with pytest.raises(UserError, match=r"Only in train/: dogs\. Only in valid/: wolves"):
        module(differing)


@pytest.mark.parametrize(
    ("key", "value"), [("size", 0), ("batch_size", 1), ("num_workers", -1), ("limit", 0), ("size", "big")]
)
def test_bad_settings_are_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"^{key}={value}: expected") as raised:
        DogsCatsDataModule(tmp_path, **{key: value})  # type: ignore[arg-type]
    assert user_message(raised.value) == f"data.{raised.value}"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_disappears_is_named(root: Path, workers: int) -> None:
    data = DogsCatsDataModule(root, size=24, batch_size=4, num_workers=workers)
    data.setup()
    (root / "valid" / "dogs" / "dog.2.jpg").unlink()
    with pytest.raises(UserError) as raised:
        list(data.loader(data.valid_dataset(), persistent=False))
    message = f"{root}/valid/dogs/dog.2.jpg: it became unreadable (No such file or directory)."
    assert str(raised.value) == message
