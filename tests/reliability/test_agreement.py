"""How the depths of a network agree on the class of a photo."""

import pytest
import torch
import torch.nn.functional as nnf
from conftest import TinyNetwork

from dogscats import Backbone
from dogscats.networks.timm_backbone import TimmBackbone, create_network
from dogscats.reliability import agreement as module
from dogscats.reliability.agreement import MAX_ANSWERS, PENALTY, Disagreement, _regress
from dogscats.reliability.signs import ForwardPass, TrainingPhotos

WIDTHS = [12, 20]


def fitted(features: torch.Tensor, labels: torch.Tensor, classes: int = 3) -> Disagreement:
    sign = Disagreement.fit(TrainingPhotos(features, None, labels.tolist(), classes, lambda: WIDTHS))
    assert sign is not None
    return sign


def score(sign: Disagreement, features: torch.Tensor) -> torch.Tensor:
    return sign.score(ForwardPass(features, torch.empty(0)))


def photos(count: int, seed: int, mixed: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two depths that show one of three classes, or a different one at each depth if `mixed`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    depths = []
    for depth, width in enumerate(WIDTHS):
        shown = (labels + depth * mixed) % 3
        depths.append(torch.rand(count, width, generator=generator) + 2 * nnf.one_hot(shown, width))
    return torch.cat(depths, dim=1), labels


@pytest.mark.parametrize("count", [15, 60])  # fewer and more than the features
def test_answers_are_those_of_regressions_without_the_photo(count: int) -> None:
    features, labels = photos(count, 0)
    features, targets = nnf.normalize(features.double(), dim=1), 2.0 * nnf.one_hot(labels, 3).double() - 1
    _, _, left_out = _regress(features.float(), targets.float())
    scaled = (features - features.mean(dim=0)) / features.std(dim=0, correction=0) / features.shape[1] ** 0.5
    rows = torch.cat([scaled, torch.ones(count, 1)], dim=1)
    penalty = PENALTY * rows.square().sum(dim=1).mean() * torch.eye(rows.shape[1])
    for photo in (0, 7, count - 1):
        others = torch.arange(count) != photo
        gram = rows[others].T @ rows[others] + penalty
        expected = rows[photo] @ torch.linalg.solve(gram, rows[others].T @ targets[others])
        torch.testing.assert_close(left_out[photo].double(), expected, rtol=1e-3, atol=1e-3)


def test_depths_that_disagree_are_strange_although_each_is_sure() -> None:
    agreement = fitted(*photos(300, 0))
    known, strange = score(agreement, photos(300, 1)[0]), score(agreement, photos(300, 2, mixed=True)[0])
    assert strange.min() > known.quantile(0.95)
    assert known.quantile(0.95) > score(agreement, photos(300, 0)[0]).median()


def test_a_feature_that_one_photo_has_a_trace_of_does_no_harm() -> None:
    features, labels = photos(60, 0)
    others = photos(60, 1)[0]
    for trace in (0.0, 1e-3, 1e-5, 1e-6):
        features[:, 0] = others[:, 0] = 0
        features[7, 0] = trace
        others[5, 0] = 0.5  # a new photo has more of it
        values = score(fitted(features, labels), others)
        assert values.isfinite().all()
        if trace < 1e-3:
            without = features.clone()
            without[:, 0] = 0
            torch.testing.assert_close(values, score(fitted(without, labels), others), rtol=1e-4, atol=1e-4)


def test_the_features_say_the_same_in_any_scale_and_precision() -> None:
    agreement, features = fitted(*photos(300, 0)), photos(20, 1)[0]
    torch.testing.assert_close(score(agreement, 3 * features), score(agreement, features), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(score(agreement, features.half()), score(agreement, features), rtol=0.05, atol=0.2)


def test_classes_without_photos_few_or_equal_photos_are_no_error() -> None:
    features, labels = photos(30, 0)
    for rows, classes in ((labels < 2, 3), (labels == 1, 3), (torch.arange(30) < 2, 3), (torch.arange(30) == 4, 4)):
        assert score(fitted(features[rows], labels[rows], classes), features).isfinite().all()
    assert score(fitted(torch.ones(6, 32), torch.arange(6) % 2, 2), features).isfinite().all()


def test_very_many_answers_are_those_of_all_depths_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ANSWERS >= 6
    assert fitted(*photos(30, 0)).sizes == WIDTHS
    monkeypatch.setattr(module, "MAX_ANSWERS", 5)
    assert fitted(*photos(30, 0)).sizes == [32]


def test_widths_of_the_depths() -> None:
    assert Backbone(TinyNetwork(), last_early="first", channels=8).widths(32) == [16]
    for name in ("test_resnet", "test_vit"):
        for features in ("last", "all"):
            body = TimmBackbone(create_network(name, "none", 32), features, 32).train()
            assert sum(body.widths(32)) == body.num_features
            assert body.training
            assert (len(body.widths(32)) > 2) == (features == "all")
