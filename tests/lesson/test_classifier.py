import copy
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from dogscats.data.loading.dataset import Batch
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Head, Heads


@pytest.fixture
def classifier(tiny_body: Backbone) -> Classifier:
    torch.manual_seed(1)
    return Classifier(tiny_body, classes=3, lrs=(1e-4, 1e-3, 1e-2))


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 20, 20), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(count) % 3, torch.arange(count))


def test_the_head_is_the_lessons() -> None:
    head = Head(1024, 2)
    assert [type(layer) for layer in head] == [
        nn.BatchNorm1d, nn.Dropout, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear
    ]  # fmt: skip
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.25, 0.5]
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(1024, 512), (512, 2)]
    assert all(layer.bias.count_nonzero() == 0 for layer in linear)
    assert linear[0].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)


def test_predicting_gives_indices_and_probabilities(classifier: Classifier) -> None:
    classifier.eval()
    indices, probabilities = classifier.predict_step(batch())
    assert indices.tolist() == list(range(6))
    assert probabilities.shape == (6, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    torch.testing.assert_close(probabilities, classifier(batch().inputs).exp())


def test_a_scorer_scores_the_plain_photos_in_the_pass_that_predicts(classifier: Classifier) -> None:
    class Largest:
        num_scores = 1

        def __call__(self, body: Any, heads: Heads, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            log_probabilities = heads(body(inputs))
            return log_probabilities, log_probabilities.amax(dim=1, keepdim=True)

        def unlike(self, scores: torch.Tensor) -> torch.Tensor:
            return scores[:, 0]

    classifier.eval().scorer = Largest()
    _, probabilities = classifier.predict_step(batch())
    torch.testing.assert_close(classifier.scores.exp(), probabilities.amax(dim=1, keepdim=True))
    before = classifier.scores
    classifier.predict_step(batch(), dataloader_idx=1)
    assert classifier.scores is before


def test_the_probabilities_of_several_heads_are_averaged(tiny_body: Backbone) -> None:
    classifier = Classifier(tiny_body, classes=3, heads=4).eval()
    each = classifier.heads.each(classifier.body(batch().inputs)).softmax(dim=2)
    assert each.shape == (4, 6, 3)
    assert each.std(dim=0).min() > 0
    torch.testing.assert_close(classifier.predict_step(batch())[1], each.mean(dim=0))


def test_each_of_several_heads_learns_as_it_would_alone(tiny_body: Backbone) -> None:
    learned = []
    for count in (1, 3):
        torch.manual_seed(1)
        classifier = Classifier(copy.deepcopy(tiny_body), classes=3, heads=count)
        classifier.log = lambda *_, **__: None  # type: ignore[method-assign]
        classifier.freeze_to(2)
        optimizer = classifier.configure_optimizers()
        for _ in range(3):
            torch.manual_seed(2)  # of dropout, which the first head draws first
            optimizer.zero_grad()
            classifier.training_step(batch(), 0).backward()
            optimizer.step()
        learned.append([head.state_dict() for head in classifier.heads])
    (alone,), (first, second, _) = learned
    torch.testing.assert_close(first, alone)
    assert not torch.allclose(first["6.weight"], second["6.weight"])


def test_the_body_learns_from_the_mean_over_the_heads(tiny_body: Backbone) -> None:
    heads = Heads(16, 3, count=3, dropout=(0, 0))
    together = Classifier(tiny_body, 3, heads)
    together.log = lambda *_, **__: None  # type: ignore[method-assign]
    together.freeze_to(0)
    gradients = []
    for losses in (
        lambda: together.training_step(batch(), 0),
        lambda: torch.stack(
            [nn.functional.cross_entropy(head(together.body(batch().inputs)), batch().labels) for head in heads]
        ).mean(),
    ):
        together.zero_grad()
        losses().backward()
        gradients.append([p.grad.clone() for p in together.body.parameters() if p.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_optimizer_holds_every_parameter_once_in_named_groups(classifier: Classifier) -> None:
    optimizer = classifier.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    groups = optimizer.param_groups
    assert [(g["name"], g["lr"], g["momentum"], g["weight_decay"]) for g in groups] == [
        ("early", 1e-4, 0.9, 0),
        ("late", 1e-3, 0.9, 0),
        ("head", 1e-2, 0.9, 0),
    ]
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in classifier.parameters())


@pytest.mark.parametrize("first", [0, 1, 2])
def test_training_changes_the_unfrozen_groups_and_not_a_bit_of_the_frozen(classifier: Classifier, first: int) -> None:
    classifier.freeze_to(first)
    before = copy.deepcopy(classifier.state_dict())
    optimizer = classifier.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(batch().inputs), batch().labels).backward()
        optimizer.step()
    after = classifier.state_dict()
    prefixes = ["body.network.first", "body.network.second", "head"]
    for number, prefix in enumerate(prefixes):
        keys = [key for key in after if key.startswith(prefix)]
        assert any("running_mean" in key for key in keys)
        changed = [not torch.equal(before[key], after[key]) for key in keys]
        assert all(changed) if number >= first else not any(changed)


def test_a_frozen_body_keeps_no_graph(classifier: Classifier) -> None:
    classifier.freeze_to(2)
    assert not classifier.body(batch().inputs).requires_grad
    classifier.freeze_to(1)
    assert classifier.body(batch().inputs).requires_grad


def test_the_head_trains_alone_on_precomputed_features(classifier: Classifier) -> None:
    """Both classifiers share the head, so that what one learns the other knows."""
    classifier.eval()
    alone = Classifier(PrecomputedBody(), 3, classifier.heads).eval()
    features = classifier.body(batch().inputs)
    torch.testing.assert_close(alone(features), classifier(batch().inputs), rtol=0, atol=0)
    groups = alone.configure_optimizers().param_groups
    assert [len(g["params"]) for g in groups[:2]] == [0, 0]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in classifier.heads.parameters()}


class Losses(Callback):
    """Records the loss of each training batch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: object, outputs: Any, *_: object) -> None:
        self.seen.append(outputs["loss"])


@pytest.mark.parametrize("heads", [1, 2])
def test_epoch_losses_are_means_over_photos_of_batches_of_any_size(tiny_body: Backbone, heads: int) -> None:
    classifier = Classifier(tiny_body, classes=3, heads=heads, lrs=(0, 0, 0)).eval()  # training changes nothing
    whole = batch(7)
    parts = [Batch(*(values[start:end] for values in whole)) for start, end in [(0, 5), (5, 7)]]
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    features = classifier.body(whole.inputs)
    each = torch.stack(
        [nn.functional.cross_entropy(head(features), whole.labels, reduction="none") for head in classifier.heads]
    )
    log_probabilities = classifier(whole.inputs)
    losses = Losses()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[losses],
    )  # fmt: skip

    trainer.fit(classifier, loader, loader)
    # The heads learn from the sum of their losses, the report is their mean.
    expected = [each[:, :5].mean(dim=1).sum(), each[:, 5:].mean(dim=1).sum()]
    torch.testing.assert_close(losses.seen, expected, rtol=1e-5, atol=1e-6)
    logged = trainer.callback_metrics
    torch.testing.assert_close(logged["train_loss"], each.mean(), rtol=1e-5, atol=1e-6)
    loss = nn.functional.nll_loss(log_probabilities, whole.labels)
    torch.testing.assert_close(logged["valid_loss"], loss, rtol=1e-5, atol=1e-6)
    right = (log_probabilities.argmax(dim=1) == whole.labels).float().mean()
    torch.testing.assert_close(logged["valid_acc"], right)

    (tested,) = trainer.test(classifier, loader, verbose=False)
    assert (tested["test_loss"], tested["test_acc"]) == pytest.approx((loss.item(), right.item()))


def test_batchnorm_of_the_body_can_keep_its_statistics_while_its_weights_train(
    classifier: Classifier,
) -> None:
    classifier.freeze_to(0, train_batchnorm=False)
    before = copy.deepcopy(classifier.state_dict())
    optimizer = classifier.configure_optimizers()
    nn.functional.cross_entropy(classifier(batch().inputs), batch().labels).backward()
    optimizer.step()
    for key, value in classifier.state_dict().items():
        statistics = "running" in key or "num_batches" in key
        kept = key.startswith("body") and statistics
        assert torch.equal(before[key], value) == kept, key
