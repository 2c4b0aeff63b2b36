"""Batch norm over groups of clips, and precise statistics, against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from slowfast_core.errors import InputError
from slowfast_core.recipe.schema import Train
from slowfast_core.training.batch_norm import begin_step, set_precise_statistics, with_norm

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))


def clips(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    scale = torch.linspace(0.5, 3, count).reshape(-1, 1, 1, 1, 1)
    return torch.randn(count, 3, 2, 5, 5, generator=generator) * scale + scale


@pytest.mark.parametrize("count", [24, 20, 8, 3])
def test_statistics_are_computed_over_groups_of_8(count: int) -> None:
    train = Train(norm_clips=8)
    plain, grouped = network(), with_norm(network(), train, CPU)
    begin_step(grouped, train, [count])
    maps_BCTHW = clips(count)
    expected = torch.cat([plain(group) for group in maps_BCTHW.split(8)])
    torch.testing.assert_close(grouped(maps_BCTHW), expected)


def test_running_statistics_move_once_per_step_to_the_mean_of_the_groups() -> None:
    train = Train(norm_clips=8)
    grouped = with_norm(network(), train, CPU)
    maps_BCTHW = grouped[0](clips(24)).detach()  # type: ignore[index, operator]
    begin_step(grouped, train, [24])
    grouped[1](maps_BCTHW)  # type: ignore[index, operator]
    groups = maps_BCTHW.split(8)
    means = torch.stack([g.mean((0, 2, 3, 4)) for g in groups]).mean(0)
    variances = torch.stack([g.var((0, 2, 3, 4)) for g in groups]).mean(0)
    torch.testing.assert_close(grouped[1].running_mean, 0.1 * means)  # type: ignore[index, union-attr, arg-type]
    torch.testing.assert_close(grouped[1].running_var, 0.9 + 0.1 * variances)  # type: ignore[index, union-attr, arg-type]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_in_parts_equals_a_whole_step(parts: int) -> None:
    train = Train(norm_clips=8, accumulate=parts)
    whole, split = with_norm(network(), train, CPU), with_norm(network(), train, CPU)
    for _ in range(2):
        begin_step(whole, train, [24])
        begin_step(split, train, [24 // parts] * parts)
        expected = whole(clips(24))
        found = torch.cat([split(part) for part in clips(24).chunk(parts)])
        torch.testing.assert_close(found, expected)
    for mine, other in zip(split.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(mine, other)


def test_one_group_is_plain_batch_norm_with_the_same_weight_names() -> None:
    plain, grouped = network(), with_norm(network(), Train(), CPU)
    begin_step(grouped, Train(), [8])
    assert torch.equal(grouped(clips(8)), plain(clips(8)))
    for name, value in plain.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(grouped.state_dict()[name], value)


def test_frozen_statistics_do_not_change() -> None:
    train = Train(batch_norm="frozen")
    frozen = with_norm(network(), train, CPU)
    before = copy.deepcopy(frozen.state_dict())
    begin_step(frozen, train, [8])
    frozen(clips(8))
    assert frozen.training
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_synchronised_batch_norm_needs_gpus() -> None:
    with pytest.raises(InputError, match="synchronised batch norm needs GPUs"):
        with_norm(network(), Train(batch_norm="sync"), CPU)


@pytest.mark.parametrize("grouped", [False, True])
def test_precise_statistics_equal_the_population(grouped: bool) -> None:
    net = with_norm(network(), Train(norm_clips=4), CPU) if grouped else network()
    batches = [clips(8), clips(8) * 3 + 1, clips(8) - 5]
    begin_step(net, Train(), [8])
    net(clips(20))  # running statistics that must be replaced
    assert set_precise_statistics(net, batches, lambda n, batch: n(batch)) == 3
    population = net[0](torch.cat(batches)).detach()  # type: ignore[index, operator]
    norm = net[1]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, population.mean((0, 2, 3, 4)))  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(norm.running_var, population.var((0, 2, 3, 4)))  # type: ignore[union-attr, arg-type]


def test_precise_statistics_keep_the_mode_and_skip_unused_norms() -> None:
    net = network().eval()
    net.add_module("unused", nn.BatchNorm3d(2))
    set_precise_statistics(net, [clips(4)], lambda n, batch: n[1](n[0](batch)))
    assert not net.training
    assert net.unused.running_mean.tolist() == [0, 0]  # type: ignore[union-attr, operator]
