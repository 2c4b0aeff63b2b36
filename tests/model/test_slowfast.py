"""The networks against Table 1 of the paper, its costs, and the parameter counts of the released models.

B clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from slowfast_core.model.blocks import Basic, Bottleneck
from slowfast_core.model.build import build_model
from slowfast_core.model.cost import cost_of
from slowfast_core.recipe.load import Clip, Model

PAPER = Clip(T=4, tau=16, alpha=8)
RELEASED = Clip(T=8, tau=8, alpha=4)
TINY = Model(depth=18, width=8, beta=0.25, classes=5)
TINY_CLIP = Clip(T=2, tau=4, alpha=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("model", "clip", "parameters"),
    [
        (Model(), PAPER, 34_480_216),
        (Model(lateral_kernel=7), RELEASED, 34_566_488),
        (Model(lateral_kernel=7, head="detect", classes=80), RELEASED, 33_828_888),
        (Model(pathways="slow"), PAPER, 32_454_096),
    ],
)
def test_parameter_counts_equal_the_released_models(model: Model, clip: Clip, parameters: int) -> None:
    assert cost_of(model, clip, 64).parameters == parameters


@pytest.mark.parametrize(
    ("model", "clip", "gflops"),
    [
        (Model(), PAPER, 36.1),
        (Model(lateral_kernel=7), RELEASED, 65.7),
        (Model(pathways="slow"), PAPER, 27.3),
        (Model(pathways="fast"), PAPER, 6.9),  # the paper prints 6.4, but its TtoC-sum row implies 6.9
        (
            Model(lateral_kernel=7, head="detect", classes=80),
            RELEASED,
            96.9,
        ),  # as the peer libraries count their dilated trunk
    ],
)
def test_gflops_of_a_256_view_equal_the_paper(model: Model, clip: Clip, gflops: float) -> None:
    assert cost_of(model, clip, 256).gflops == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("head", ["classify", "detect"])
@pytest.mark.parametrize("pathways", ["slowfast", "slow", "fast"])
def test_the_costs_of_the_stages_add_up(pathways: str, head: str) -> None:
    cost = cost_of(Model(pathways=pathways, head=head), PAPER, 224)
    assert sum(cost.by_stage.values()) == pytest.approx(cost.gflops, rel=1e-6)
    assert len(cost.by_stage) == (15 if pathways == "slowfast" else 6)


def shapes_of(model: Model, clip: Clip, size: int, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """Output shape `[C, T, H, W]` of each stem, stage and lateral connection, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        network = build_model(model, clip).eval()
        for name, module in network.named_modules():
            if name.endswith(("stem", "stem.2", "projection")) or name.split(".")[-2:-1] in (["stages"], ["laterals"]):
                module.register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
        network(torch.empty(1, 3, clip.fast_frames, size, size), *inputs)
    return shapes


def test_every_stage_has_the_shape_of_table_1() -> None:
    assert shapes_of(Model(), PAPER, 224) == {
        "trunk.slow.stem.2": (64, 4, 112, 112),
        "trunk.slow.stem": (64, 4, 56, 56),
        "trunk.slow.stages.0": (256, 4, 56, 56),
        "trunk.slow.stages.1": (512, 4, 28, 28),
        "trunk.slow.stages.2": (1024, 4, 14, 14),
        "trunk.slow.stages.3": (2048, 4, 7, 7),
        "trunk.fast.stem.2": (8, 32, 112, 112),
        "trunk.fast.stem": (8, 32, 56, 56),
        "trunk.fast.stages.0": (32, 32, 56, 56),
        "trunk.fast.stages.1": (64, 32, 28, 28),
        "trunk.fast.stages.2": (128, 32, 14, 14),
        "trunk.fast.stages.3": (256, 32, 7, 7),
        # input of the next Slow stage: channels of Slow plus 2 beta C of Fast
        "trunk.laterals.0": (64 + 16, 4, 56, 56),
        "trunk.laterals.1": (256 + 64, 4, 56, 56),
        "trunk.laterals.2": (512 + 128, 4, 28, 28),
        "trunk.laterals.3": (1024 + 256, 4, 14, 14),
        "projection": (400,),
    }


@pytest.mark.parametrize(("pathways", "frames", "channels"), [("slow", 4, 2048), ("fast", 32, 256)])
def test_a_single_pathway_has_the_same_stages(pathways: str, frames: int, channels: int) -> None:
    shapes = shapes_of(Model(pathways=pathways), PAPER, 224)
    spatial = {"stem": 56, "stages.0": 56, "stages.1": 28, "stages.2": 14, "stages.3": 7}
    wide = {"stem": 32, "stages.0": 8, "stages.1": 4, "stages.2": 2, "stages.3": 1}
    for stage, side in spatial.items():
        assert shapes[f"trunk.pathway.{stage}"] == (channels // wide[stage], frames, side, side)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("alpha", [1, 2, 4, 8])
def test_laterals_keep_the_slow_frames_for_every_kernel_and_alpha(alpha: int, kernel: int) -> None:
    clip = Clip(T=3, tau=8, alpha=alpha)
    shapes = shapes_of(TINY.model_copy(update={"lateral_kernel": kernel}), clip, 32)
    assert [shapes[f"trunk.laterals.{i}"][1] for i in range(4)] == [3, 3, 3, 3]


def test_detection_has_a_dilated_res5_at_stride_16() -> None:
    model = Model(head="detect", classes=80)
    shapes = shapes_of(model, RELEASED, 224, torch.empty(0, 5, device="meta"))
    assert shapes["trunk.slow.stages.3"] == (2048, 8, 14, 14)
    assert shapes["trunk.fast.stages.3"] == (256, 32, 14, 14)
    assert shapes["projection"] == (80,)
    with torch.device("meta"):
        network = build_model(model, RELEASED)
    dilations = [m.dilation for m in network.trunk.slow.stages[3].modules() if isinstance(m, nn.Conv3d)]
    assert dilations.count((1, 2, 2)) == 3  # one in each block


def test_temporal_kernels_are_those_of_table_1() -> None:
    with torch.device("meta"):
        trunk = build_model(Model(), PAPER).trunk
    for pathway, times in ((trunk.slow, (1, 1, 1, 3, 3)), (trunk.fast, (5, 3, 3, 3, 3))):
        assert pathway.stem[0].kernel_size == (times[0], 7, 7)
        for stage, time, count in zip(pathway.stages, times[1:], (3, 4, 6, 3), strict=True):
            assert [block.a.kernel_size for block in stage] == [(time, 1, 1)] * count
            assert [block.b.kernel_size for block in stage] == [(1, 3, 3)] * count
    assert [(lateral.conv.kernel_size, lateral.conv.stride) for lateral in trunk.laterals] == [
        ((5, 1, 1), (8, 1, 1))
    ] * 4


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (34, 16), (50, 16), (101, 33), (152, 50)])
def test_number_of_blocks_of_each_depth(depth: int, blocks: int) -> None:
    with torch.device("meta"):
        trunk = build_model(Model(depth=depth), PAPER).trunk
    for pathway in (trunk.slow, trunk.fast):
        assert sum(isinstance(m, Basic | Bottleneck) for m in pathway.modules()) == blocks


@pytest.mark.parametrize("pathways", ["slowfast", "slow", "fast"])
def test_logits_of_real_clips(pathways: str) -> None:
    torch.manual_seed(0)
    network = build_model(TINY.model_copy(update={"pathways": pathways}), TINY_CLIP).eval()
    clips_BCTHW = torch.randn(2, 3, 8, 40, 56)
    logits_BA = network(clips_BCTHW)
    assert logits_BA.shape == (2, 5)
    assert logits_BA.isfinite().all()
    torch.testing.assert_close(network(clips_BCTHW[:1]), logits_BA[:1])  # clips are independent
    assert not torch.allclose(logits_BA[0], logits_BA[1])


@pytest.mark.parametrize(
    ("pathways", "seen"), [("slow", [0, 4]), ("fast", list(range(8))), ("slowfast", list(range(8)))]
)
def test_pathways_use_their_frames(pathways: str, seen: list[int]) -> None:
    torch.manual_seed(0)
    network = build_model(TINY.model_copy(update={"pathways": pathways}), TINY_CLIP).eval()
    clips_BCTHW = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    network(clips_BCTHW).sum().backward()
    assert clips_BCTHW.grad is not None
    assert clips_BCTHW.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist() == seen


def test_every_lateral_feeds_fast_into_slow() -> None:
    torch.manual_seed(0)
    network = build_model(TINY, TINY_CLIP).eval()
    slow_BCTHW, _ = network.trunk.features(torch.randn(1, 3, 8, 32, 32))
    slow_BCTHW.sum().backward()
    for lateral in network.trunk.laterals:
        assert lateral.conv.weight.grad.abs().sum() > 0
    assert network.trunk.fast.stem[0].weight.grad.abs().sum() > 0
    assert (
        network.trunk.fast.stages[2][0].a.weight.grad is not None
    )  # res4 of Fast, through the last lateral connection
    assert network.trunk.fast.stages[3][0].a.weight.grad is None  # res5 of Fast does not feed Slow


def test_slow_does_not_feed_fast() -> None:
    torch.manual_seed(0)
    network = build_model(TINY, TINY_CLIP).eval()
    _, fast_BCTHW = network.trunk.features(torch.randn(1, 3, 8, 32, 32))
    fast_BCTHW.sum().backward()
    assert all(p.grad is None for p in network.trunk.slow.parameters())


@pytest.mark.parametrize("depth", [18, 50])
def test_a_new_block_is_the_identity_of_its_shortcut(depth: int) -> None:
    torch.manual_seed(0)
    network = build_model(TINY.model_copy(update={"depth": depth}), TINY_CLIP).eval()
    block = network.trunk.slow.stages[1][1]
    x_BCTHW = torch.rand(1, block.a.in_channels, 2, 8, 8)  # positive, as after a ReLU
    torch.testing.assert_close(block(x_BCTHW), x_BCTHW)
    for module in network.modules():
        if isinstance(module, Basic | Bottleneck):
            assert not module.last_bn.weight.any()


def test_convolutions_start_as_he_fan_out() -> None:
    torch.manual_seed(0)
    weight = build_model(Model(width=32, depth=50, classes=5), PAPER).trunk.slow.stages[3][1].b.weight  # 1x3x3
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.02)


def test_convolutions_are_channels_last_in_memory() -> None:
    network = build_model(TINY, TINY_CLIP)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert convolutions
    for conv in convolutions:
        assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        features = network.trunk.features(torch.randn(2, 3, 8, 32, 32).to(memory_format=torch.channels_last_3d))
    for x_BCTHW in features:
        assert x_BCTHW.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_weights_depend_on_the_random_state() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model(TINY, TINY_CLIP).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["projection.weight"], states[2]["projection.weight"])


def test_detection_scores_boxes_in_their_order_and_clip() -> None:
    torch.manual_seed(0)
    network = build_model(TINY.model_copy(update={"head": "detect"}), TINY_CLIP).eval()
    clips_BCTHW = torch.randn(2, 3, 8, 64, 64)
    boxes_K5 = torch.tensor([[1.0, 5, 5, 40, 60], [0.0, 5, 5, 40, 60], [1.0, 30, 2, 60, 20]])
    logits_KA = network(clips_BCTHW, boxes_K5)
    assert logits_KA.shape == (3, 5)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(network(clips_BCTHW, boxes_K5[order]), logits_KA[order])
    alone_K5 = torch.tensor([[0.0, 5, 5, 40, 60]])
    torch.testing.assert_close(network(clips_BCTHW[1:], alone_K5), logits_KA[:1])
    assert network(clips_BCTHW, torch.empty(0, 5)).shape == (0, 5)
