"""Weights: digest, damaged files, and initialisation of a network from other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slowfast_core.errors import InputError
from slowfast_core.model.build import build_model
from slowfast_core.model.weights import compare, load_weights, save_weights, start_from, weights_digest
from slowfast_core.recipe.load import Clip, Model, NonLocal

CLIP = Clip(T=2, tau=4, alpha=4)
TINY = Model(depth=18, width=8, beta=0.25, classes=5)


def state() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(2, dtype=torch.bfloat16)}


def changed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**state(), name: tensor}


def test_the_digest_does_not_depend_on_the_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "one.safetensors", state())
    save_weights(tmp_path / "two.safetensors", dict(reversed(state().items())))
    digests = {weights_digest(load_weights(tmp_path / f"{name}.safetensors")) for name in ("one", "two")}
    assert digests == {weights_digest(state())}


def test_the_digest_does_not_depend_on_the_layout_in_memory() -> None:
    weight = torch.randn(4, 3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    last = weight.to(memory_format=torch.channels_last_3d)
    assert last.stride() != weight.stride()
    assert weights_digest({"w": last}) == weights_digest({"w": weight})


@pytest.mark.parametrize(
    "other",
    [
        changed("a", torch.arange(6.0).reshape(2, 3) + 1e-6),
        changed("a", torch.arange(6.0).reshape(3, 2)),
        changed("a", torch.arange(6.0).reshape(2, 3).double()),
        changed("a", -torch.arange(6.0).reshape(2, 3)),
        changed("d", torch.tensor(0)),
        {("e" if name == "a" else name): tensor for name, tensor in state().items()},
        {name: tensor for name, tensor in state().items() if name != "b"},
        {"a": state()["a"], "b": state()["c"], "c": state()["b"]},
    ],
)
def test_the_digest_depends_on_names_values_shapes_and_types(other: dict[str, Tensor]) -> None:
    assert weights_digest(other) != weights_digest(state())


def test_saved_weights_can_be_loaded(tmp_path: Path) -> None:
    network = build_model(TINY, CLIP)
    save_weights(tmp_path / "model.safetensors", network.state_dict())
    loaded = load_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
    assert len(loaded) == len(network.state_dict())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="cannot read weights"):
        load_weights(path)
    save_weights(path, state())
    data = path.read_bytes()
    for broken in (b"", b"not weights", data[:4], data[: len(data) // 2], data[:-1]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"cannot read weights: .*model\.safetensors"):
            load_weights(path)


def test_a_network_starts_from_one_of_the_same_kind() -> None:
    torch.manual_seed(1)
    weights = build_model(TINY, CLIP).state_dict()
    network = build_model(TINY.model_copy(update={"head": "detect"}), CLIP)
    classifier = network.projection.weight.clone()
    report = start_from(network, weights)
    assert report.new == report.dropped == ("projection.weight", "projection.bias")
    assert set(report.loaded) == {name for name in weights if not name.startswith("projection.")}
    assert torch.equal(network.projection.weight, classifier)
    for name in report.loaded:
        assert torch.equal(network.state_dict()[name], weights[name])
    trunk = len(weights) - 2
    assert str(report) == (
        f"{trunk} tensors loaded, 2 new (projection.weight, projection.bias), "
        "2 dropped (projection.weight, projection.bias)"
    )


def test_tensors_that_do_not_match_are_reported_as_new_or_dropped() -> None:
    torch.manual_seed(1)
    weights = build_model(TINY.model_copy(update={"lateral_kernel": 7}), CLIP).state_dict()
    weights["stranger"] = torch.zeros(3)
    network = build_model(TINY, CLIP)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = start_from(network, weights)
    laterals = {f"trunk.laterals.{i}.conv.weight" for i in range(4)}
    classifier = {"projection.weight", "projection.bias"}
    assert set(report.new) == laterals | classifier
    assert set(report.dropped) == laterals | classifier | {"stranger"}
    assert "6 new (" in str(report)
    assert ", ...), 7 dropped" in str(report)
    for name in laterals:
        assert torch.equal(network.state_dict()[name], before[name])


def trained(model: Model, clip: Clip = CLIP) -> dict[str, Tensor]:
    """Weights that all differ from those of a new network, including batch-norm statistics."""
    generator = torch.Generator().manual_seed(1)
    state = build_model(model, clip).state_dict()
    return {
        name: torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.is_floating_point() else tensor + 9
        for name, tensor in state.items()
    }


def test_a_longer_clip_loads_all_weights_and_statistics() -> None:
    weights = trained(TINY)
    network = build_model(TINY, Clip(T=4, tau=4, alpha=4))
    report = start_from(network, weights, classifier=True)
    assert report.new == report.dropped == ()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_added_non_local_blocks_do_not_change_the_output() -> None:
    clip_BCTHW = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    plain = build_model(TINY, CLIP)
    with torch.no_grad():
        plain.train()(clip_BCTHW)  # statistics that differ from those of a new network
    torch.nn.init.normal_(plain.projection.weight)
    section = NonLocal(res3=(1,), res4=(0, 1))
    for attention in ("softmax", "dot_product"):
        longer = TINY.model_copy(update={"non_local": section.model_copy(update={"attention": attention})})
        network = build_model(longer, CLIP)
        report = start_from(network, plain.state_dict(), classifier=True)
        assert report.dropped == ()
        assert report.new
        assert all("nonlocal" in name for name in report.new)
        with torch.no_grad():
            before, after = plain.eval()(clip_BCTHW), network.eval()(clip_BCTHW)
        assert before.std() > 0
        assert torch.equal(before, after)


@pytest.mark.parametrize(("first", "then"), [(50, 101), (101, 50)])
def test_another_depth_loads_the_common_blocks(first: int, then: int) -> None:
    small = {"width": 8, "classes": 5}
    weights = trained(Model(depth=first, **small))  # type: ignore[arg-type]
    network = build_model(Model(depth=then, **small), CLIP)  # type: ignore[arg-type]
    report = start_from(network, weights)
    deeper = [name for name in (*report.new, *report.dropped) if not name.startswith("projection.")]
    assert {name.split(".stages.")[1].split(".")[0] for name in deeper} == {"2"}
    assert {int(name.split(".stages.2.")[1].split(".")[0]) for name in deeper} == set(range(6, 23))
    assert len(report.loaded) == 660
    for name in report.loaded:
        assert torch.equal(network.state_dict()[name], weights[name])


def skeleton(**changed: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(Model.model_validate({"width": 8, "classes": 5, **changed}), CLIP)


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (
            {"depth": 18},
            {"depth": 50},
            "204 of 272 tensors match, 30 % of their values and 19 % of this network's",
        ),
        ({"depth": 50}, {"depth": 34}, "of 662 tensors match"),
        ({"width": 16}, {}, "of 662 tensors match, 0 % of their values"),
        ({"pathways": "slow"}, {}, "0 of 320 tensors match"),
        ({}, {"pathways": "slow"}, "0 of 662 tensors match"),
    ],
)
def test_another_kind_of_network_is_refused(first: dict[str, Any], then: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        compare(skeleton(**then), skeleton(**first).state_dict())
    line = str(caught.value)
    assert message in line
    assert "\n" not in line


def test_weights_without_matching_tensors_are_refused() -> None:
    network = build_model(TINY, CLIP)
    before = weights_digest(network.state_dict())
    only_classifier = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("projection.")}
    for weights in ({}, {"stranger": torch.zeros(3)}, only_classifier):
        with pytest.raises(InputError, match="another kind of network"):
            start_from(network, weights)
    assert weights_digest(network.state_dict()) == before
