"""Variants of the paper (Tables 5a to 5c, section 4.1), and differences of the public model zoos.

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.errors import InputError
from slowfast_core.model.blocks import Basic, Bottleneck
from slowfast_core.model.build import build_model
from slowfast_core.model.cost import cost_of
from slowfast_core.model.frames import FastFrames, SlowFrames
from slowfast_core.model.lateral import TimeToChannel, TSample, make_lateral
from slowfast_core.model.nonlocal_block import NonLocalBlock
from slowfast_core.model.slowfast import Classifier, SlowFast
from slowfast_core.recipe.load import Clip, Model, NonLocal, Pixels, load_recipe, parse_recipe

PAPER = Clip(T=4, tau=16, alpha=8)
TINY_CLIP = Clip(T=2, tau=4, alpha=4)


def tiny(**changed: Any) -> Model:
    return Model.model_validate({"depth": 18, "width": 8, "beta": 0.25, "classes": 5, **changed})


def skeleton(model: Model, clip: Clip = PAPER) -> SlowFast:
    """The trunk on the meta device."""
    with torch.device("meta"):
        trunk = build_model(model, clip).trunk
    assert isinstance(trunk, SlowFast)
    return trunk


def network_of(model: Model, clip: Clip = TINY_CLIP) -> Classifier:
    torch.manual_seed(0)
    network = build_model(model, clip).eval()
    assert isinstance(network, Classifier)
    return network


def test_each_pathway_has_its_depth() -> None:
    trunk = skeleton(Model(depth=101, fast_depth=50))
    assert [len(stage) for stage in trunk.slow.stages] == [3, 4, 23, 3]
    assert [len(stage) for stage in trunk.fast.stages] == [3, 4, 6, 3]
    mixed = skeleton(Model(depth=50, fast_depth=18))  # bottleneck blocks in Slow, basic blocks in Fast
    assert [lateral.conv.in_channels for lateral in mixed.laterals] == [8, 8, 16, 32]
    assert all(isinstance(block, Bottleneck) for block in mixed.slow.stages[3])
    assert all(isinstance(block, Basic) for block in mixed.fast.stages[3])


@pytest.mark.parametrize(
    ("changed", "slow", "fast"),
    [
        ({}, 23, 23),
        ({"res4_temporal_blocks": 6}, 6, 6),
        ({"res4_temporal_blocks": 6, "fast_res4_temporal_blocks": 23}, 6, 23),
        ({"res4_temporal_blocks": 0}, 0, 0),
        ({"res4_temporal_blocks": 99}, 23, 23),
    ],
)
def test_only_the_first_blocks_of_res4_may_be_temporal(changed: dict[str, int], slow: int, fast: int) -> None:
    trunk = skeleton(Model.model_validate({"depth": 101, **changed}))
    for pathway, count in ((trunk.slow, slow), (trunk.fast, fast)):
        assert [block.a.kernel_size[0] for block in pathway.stages[2]] == [3] * count + [1] * (23 - count)
        assert {block.a.kernel_size[0] for block in pathway.stages[3]} == {3}


@pytest.mark.parametrize(
    ("lateral", "added"),
    [
        ({"lateral": "t_conv"}, 2),
        ({"lateral": "t_conv", "lateral_ratio": 1}, 1),
        ({"lateral": "t_sample"}, 1),
        ({"lateral": "ttoc_concat"}, 8),
        ({"lateral": "ttoc_sum"}, 0),
        ({"lateral": "none"}, 0),
    ],
)
def test_laterals_add_their_channels(lateral: dict[str, Any], added: int) -> None:
    trunk = skeleton(Model.model_validate(lateral))
    widths = [(64, 8), (256, 32), (512, 64), (1024, 128)]
    for (slow, fast), join, stage in zip(widths, trunk.laterals, trunk.slow.stages, strict=True):
        slow_BCTHW = torch.empty(1, slow, 4, 6, 6, device="meta")
        joined = join(slow_BCTHW, torch.empty(1, fast, 32, 6, 6, device="meta"))
        assert joined.shape == (1, slow + added * fast, 4, 6, 6)
        assert stage[0].a.in_channels == joined.shape[1]


def test_t_sample_takes_the_fast_frame_at_each_slow_frame() -> None:
    slow_BCTHW, fast_BCTHW = torch.rand(2, 3, 2, 4, 4), torch.rand(2, 1, 8, 4, 4)
    joined_BCTHW = TSample(1, 4)(slow_BCTHW, fast_BCTHW)
    assert torch.equal(joined_BCTHW, torch.cat([slow_BCTHW, fast_BCTHW[:, :, [0, 4]]], dim=1))


def test_time_to_channel_keeps_every_fast_frame() -> None:
    slow_BCTHW, fast_BCTHW = torch.rand(2, 4, 2, 3, 3), torch.rand(2, 1, 8, 3, 3)
    packed_BCTHW = fast_BCTHW.reshape(2, 2, 4, 3, 3).transpose(1, 2)  # channel a of Slow frame t is frame 4 t + a
    assert torch.equal(TimeToChannel(1, 4, add=True)(slow_BCTHW, fast_BCTHW), slow_BCTHW + packed_BCTHW)
    joined_BCTHW = TimeToChannel(1, 4, add=False)(slow_BCTHW, fast_BCTHW)
    assert torch.equal(joined_BCTHW, torch.cat([slow_BCTHW, packed_BCTHW], dim=1))


def test_a_fast_pathway_of_half_the_resolution_is_enlarged() -> None:
    slow_BCTHW, fast_BCTHW = torch.rand(1, 2, 2, 4, 6), torch.rand(1, 1, 8, 2, 3)
    added_BCTHW = TSample(1, 4)(slow_BCTHW, fast_BCTHW)[:, 2:]
    assert torch.equal(added_BCTHW, fast_BCTHW[:, :, ::4].repeat_interleave(2, 3).repeat_interleave(2, 4))


def test_without_laterals_slow_does_not_depend_on_fast() -> None:
    network = network_of(tiny(lateral="none"))
    slow_BCTHW, _ = network.trunk.features(torch.randn(1, 3, 8, 32, 32))
    slow_BCTHW.sum().backward()
    assert all(p.grad is None for p in network.trunk.fast.parameters())


def test_a_lateral_without_norm_is_its_convolution() -> None:
    join = make_lateral(tiny(lateral_norm=False), 2, 4)
    assert list(join.state_dict()) == ["conv.weight"]
    slow_BCTHW, fast_BCTHW = torch.rand(1, 8, 2, 4, 4), torch.rand(1, 2, 8, 4, 4)
    added_BCTHW = join(slow_BCTHW, fast_BCTHW)[:, 8:]
    assert (added_BCTHW < 0).any()
    expected = functional.conv3d(fast_BCTHW, join.conv.weight, stride=(4, 1, 1), padding=(2, 0, 0))  # type: ignore[union-attr]
    torch.testing.assert_close(added_BCTHW, expected)


LATERALS = ("t_conv", "t_sample", "ttoc_concat", "ttoc_sum", "none")
FAST_INPUTS = ("rgb", "half", "gray", "difference", "flow")
BUILDABLE = [
    pair for pair in product(LATERALS, FAST_INPUTS) if pair != ("ttoc_sum", "half")
]  # this combination is refused


@pytest.mark.parametrize(("lateral", "fast_input"), BUILDABLE)
def test_all_laterals_and_fast_inputs_give_logits(lateral: str, fast_input: str) -> None:
    network = network_of(tiny(lateral=lateral, fast_input=fast_input))
    channels = 5 if fast_input == "flow" else 3
    for height, width in ((40, 56), (35, 37)):
        logits_BA = network(torch.randn(2, channels, 8, height, width))
        assert logits_BA.shape == (2, 5)
        assert logits_BA.isfinite().all()


def clip_of(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def test_weaker_fast_inputs() -> None:
    clip_BCTHW = clip_of()
    red, green, blue = clip_BCTHW.unbind(1)
    gray_BCTHW = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    torch.testing.assert_close(FastFrames(tiny(fast_input="gray"))(clip_BCTHW), gray_BCTHW)
    bgr = tiny(fast_input="gray", pixels=Pixels(order="bgr"))
    torch.testing.assert_close(FastFrames(bgr)(clip_BCTHW.flip(1)), gray_BCTHW)
    change_BCTHW = FastFrames(tiny(fast_input="difference"))(clip_BCTHW)
    torch.testing.assert_close(change_BCTHW[:, :, 1:], gray_BCTHW[:, :, 1:] - gray_BCTHW[:, :, :-1])
    assert not change_BCTHW[:, :, 0].any()
    half_BCTHW = FastFrames(tiny(fast_input="half"))(clip_BCTHW)
    torch.testing.assert_close(half_BCTHW[:, :, :, 1, 2], clip_BCTHW[:, :, :, 2:4, 4:6].mean((3, 4)))
    assert FastFrames(tiny())(clip_BCTHW) is clip_BCTHW


def test_flow_channels_follow_the_rgb_channels() -> None:
    clip_BCTHW = clip_of(channels=5)
    model = tiny(fast_input="flow")
    assert torch.equal(FastFrames(model)(clip_BCTHW), clip_BCTHW[:, 3:])
    assert torch.equal(SlowFrames(model, TINY_CLIP)(clip_BCTHW), clip_BCTHW[:, :3, ::4])


def test_flow_has_to_be_extracted() -> None:
    with pytest.raises(InputError, match=r"'flow' needs data\.store\.flow true"):
        load_recipe("kinetics400/slowfast_4x16_r50_flow", ["data.store.flow=false"])
    assert not load_recipe("demo", ["model.pathways=slow", "model.fast_input=flow"]).model.takes_flow


@pytest.mark.parametrize(
    ("clip", "kept"),
    [
        (Clip(T=8, tau=8, alpha=4), [0, 4, 8, 13, 17, 22, 26, 31]),  # as in PySlowFast
        (Clip(T=4, tau=16, alpha=8), [0, 10, 20, 31]),
        (Clip(T=1, tau=4, alpha=4), [0]),
    ],
)
def test_slow_frames_are_strided_or_evenly_spaced(clip: Clip, kept: list[int]) -> None:
    clip_BCTHW = torch.arange(clip.fast_frames).expand(1, 3, 2, 2, -1).movedim(-1, 2)
    strided_BCTHW = SlowFrames(tiny(), clip)(clip_BCTHW)
    assert strided_BCTHW[0, 0, :, 0, 0].tolist() == list(range(0, clip.fast_frames, clip.alpha))
    even_BCTHW = SlowFrames(tiny(slow_frames="linspace"), clip)(clip_BCTHW)
    assert even_BCTHW[0, 0, :, 0, 0].tolist() == kept
    assert kept == torch.linspace(0, clip.fast_frames - 1, clip.T).long().tolist()


@pytest.mark.parametrize("pathways", ["slowfast", "slow"])
def test_frame_selection_has_no_weights(pathways: str) -> None:
    even, strided = (
        build_model(tiny(pathways=pathways, slow_frames=how), TINY_CLIP) for how in ("linspace", "strided")
    )
    assert list(even.state_dict()) == list(strided.state_dict())


def test_fractional_beta_rounds_up() -> None:
    widths = {beta: tiny(width=64, beta=beta).fast_width for beta in ("1/4", "1/6", "1/8", "1/12", "1/16", "1/32")}
    assert list(widths.values()) == [16, 11, 8, 6, 4, 2]
    assert Model(beta=0.0313).fast_width == 2
    assert tiny(beta=0.01).fast_width == 1


@pytest.mark.parametrize("attention", ["softmax", "dot_product"])
@pytest.mark.parametrize("pool_time", [1, 2])
def test_a_non_local_block_is_attention_over_pooled_positions(attention: Any, pool_time: Any) -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(6, NonLocal(attention=attention, pool_time=pool_time)).eval()
    nn.init.normal_(block.bn.weight)
    x_BCTHW = torch.randn(2, 6, 4, 6, 6)
    pooled_BCTHW = functional.max_pool3d(x_BCTHW, (pool_time, 2, 2))
    theta, phi, g = block.theta(x_BCTHW), block.phi(pooled_BCTHW), block.g(pooled_BCTHW)
    pairs = torch.einsum("bcthw,bcuij->bthwuij", theta, phi)
    flat = pairs.flatten(4)
    weights = (flat / 3**0.5).softmax(-1) if attention == "softmax" else flat / flat.shape[-1]
    seen = torch.einsum("bthwuij,bcuij->bcthw", weights.reshape(pairs.shape), g)
    torch.testing.assert_close(block(x_BCTHW), x_BCTHW + block.bn(block.out(seen)))


def test_non_local_blocks_follow_their_blocks_and_start_as_identity() -> None:
    plain = network_of(tiny())
    model = tiny(non_local=NonLocal(res3=(1,), res4=(0, 1)))
    network = network_of(model)
    stages = network.trunk.slow.stages
    assert [list(dict(stage.named_children())) for stage in stages] == [
        ["0", "1"],
        ["0", "1", "nonlocal1"],
        ["0", "nonlocal0", "1", "nonlocal1"],
        ["0", "1"],
    ]
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(".nonlocal" in key for key in missing.missing_keys)
    clip_BCTHW = torch.randn(2, 3, 8, 64, 64)
    torch.testing.assert_close(network(clip_BCTHW), plain(clip_BCTHW))
    assert not any(isinstance(m, NonLocalBlock) for m in network.trunk.fast.modules())


def test_non_local_blocks_cost_as_much_as_in_the_paper() -> None:
    sixteen = Clip(T=16, tau=8, alpha=4)
    r101 = Model(depth=101, res4_temporal_blocks=6)
    with_blocks = r101.model_copy(update={"non_local": NonLocal(res4=(6, 13, 20))})
    plain, blocks = (cost_of(model, sixteen, 256) for model in (r101, with_blocks))
    assert blocks.parameters - plain.parameters == 3 * 2_101_760
    assert (round(plain.gflops), round(blocks.gflops)) == (213, 234)


@pytest.mark.parametrize("zero", [True, False])
def test_the_last_bn_may_start_at_one(zero: bool) -> None:
    network = network_of(tiny(zero_init_last_bn=zero, non_local=NonLocal(res4=(1,))))
    for module in network.modules():
        if isinstance(module, Basic):
            assert bool(module.last_bn.weight.any()) is not zero
        elif isinstance(module, NonLocalBlock):
            assert not module.bn.weight.any()


def test_the_detection_trunk_may_be_undilated() -> None:
    trunk = skeleton(Model(head="detect", classes=81, res5_dilation=1, roi_size=8))
    convolutions = [m for m in trunk.slow.stages[3].modules() if isinstance(m, nn.Conv3d)]
    assert {m.dilation for m in convolutions} == {(1, 1, 1)}
    assert {m.stride for m in convolutions} == {(1, 1, 1)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"non_local": {"res4": [6]}}, "non_local.res4: res4 of R50 has blocks 0..5"),
        ({"non_local": {}, "pathways": "fast"}, "non_local needs the Slow pathway"),
        ({"fast_input": "half", "head": "detect"}, "fast_input 'half' needs head 'classify', head is 'detect'"),
        ({"multi_label": True, "head": "detect"}, "multi_label needs head 'classify'"),
        ({"lateral": "ttoc_sum", "beta": "1/4"}, "8 x 16 Fast channels cannot be added to 64 Slow channels"),
        ({"lateral": "ttoc_sum", "fast_depth": 18}, "needs alpha x beta = 1 and equal blocks"),
        ({"pixels": {"std": [0, 1, 1]}}, "model.pixels.std: must be above 0"),
        ({"beta": "1/0"}, "model.beta"),
        ({"beta": "an eighth"}, "model.beta"),
    ],
)
def test_impossible_networks_are_refused(model: dict[str, Any], message: str) -> None:
    tree = {"name": "x", "data": {"name": "x", "format": "ava" if "head" in model else "kinetics"}, "model": model}
    with pytest.raises(InputError) as caught:
        parse_recipe(tree)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
