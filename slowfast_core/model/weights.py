"""Weights as safetensors: their digest, and starting one network from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from slowfast_core.errors import InputError
from slowfast_core.files import whole_file


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when a network started from another's weights."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]  # in the network, not (or in another shape) in the weights
    dropped: tuple[str, ...]  # in the weights, not used

    def __str__(self) -> str:
        def some(names: tuple[str, ...]) -> str:
            return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""

        return (
            f"{len(self.loaded)} tensors loaded, {len(self.new)} new{some(self.new)}, "
            f"{len(self.dropped)} dropped{some(self.dropped)}"
        )


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """One digest for names, shapes, types and values, whatever the file they are kept in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(plain))


def load_weights(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """Raises InputError when the file is missing, damaged or, where a `digest` is given, has other weights."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read weights: {error}", path, "give a folder written by `slowfast train`") from None
    if digest is not None and (found := weights_digest(weights)) != digest:
        what = f"the weights were changed: their digest is {found}, recorded is {digest}"
        raise InputError(what, path, "restore the file from a copy, or train or convert again")
    return weights


def start_from(network: nn.Module, weights: Mapping[str, Tensor], classifier: bool = False) -> LoadReport:
    """Copy the tensors that fit by name and shape, statistics of batch norm included; the rest stays as initialised.

    The classifier is copied only when `classifier` says that its classes are the same. Raises InputError when the
    weights are of another kind of network.
    """
    report = compare(network, weights, classifier)
    network.load_state_dict({name: weights[name] for name in report.loaded}, strict=False)
    return report


def compare(network: nn.Module, weights: Mapping[str, Tensor], classifier: bool = False) -> LoadReport:
    """What `start_from` copies. Raises InputError when that is less than half of both the weights and the network."""
    own = network.state_dict()
    fit = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape and (classifier or not _of_classifier(name))
    }
    of_weights, of_network = (_numbers(fit) / max(_numbers(whole), 1) for whole in (weights, own))
    if max(of_weights, of_network) < 0.5:
        what = (
            f"the start weights are of another kind of network: {len(fit)} of their {len(weights)} tensors fit, "
            f"{100 * of_weights:.0f} % of their numbers and {100 * of_network:.0f} % of this network's"
        )
        raise InputError(what, "train.init_from", "name weights of the same width and kind of blocks")
    new = tuple(name for name in own if name not in fit)
    dropped = tuple(name for name in weights if name not in fit)
    return LoadReport(tuple(fit), new, dropped)


def _numbers(weights: Mapping[str, Tensor]) -> int:
    """How many there are, but for the classifier, which any other data set changes, and counters, which fit anywhere.

    Not how many tensors: those of batch norm, which are most of them, fit between blocks of different kinds.
    """
    return sum(tensor.numel() for name, tensor in weights.items() if tensor.dim() and not _of_classifier(name))


def _of_classifier(name: str) -> bool:
    return name.startswith("projection.")
