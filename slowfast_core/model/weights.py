"""Reads and writes weights as safetensors, computes their digest, and initialises a network from other weights."""

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
    """Names of the tensors that were loaded, new or dropped when a network was initialised from other weights."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]  # in the network, but missing from the weights or of another shape there
    dropped: tuple[str, ...]  # in the weights, but not used

    def __str__(self) -> str:
        def some(names: tuple[str, ...]) -> str:
            return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""

        return (
            f"{len(self.loaded)} tensors loaded, {len(self.new)} new{some(self.new)}, "
            f"{len(self.dropped)} dropped{some(self.dropped)}"
        )


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values; it does not depend on the file format."""
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
    """Load a safetensors file. Raises InputError when it is missing, damaged, or differs from the given `digest`."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read weights: {error}", path, "give a folder written by `slowfast train`") from None
    if digest is not None and (found := weights_digest(weights)) != digest:
        what = f"the weights were changed: digest {found}, recorded {digest}"
        raise InputError(what, path, "restore the file from a copy, or train or convert again")
    return weights


def start_from(network: nn.Module, weights: Mapping[str, Tensor], classifier: bool = False) -> LoadReport:
    """Copy the tensors that match by name and shape, including batch-norm statistics; the rest stays as initialised.

    The classifier is copied only when `classifier` is set, which means that the classes are the same. Raises InputError
    when the weights belong to another kind of network.
    """
    report = compare(network, weights, classifier)
    network.load_state_dict({name: weights[name] for name in report.loaded}, strict=False)
    return report


def compare(network: nn.Module, weights: Mapping[str, Tensor], classifier: bool = False) -> LoadReport:
    """Report what `start_from` copies.

    Raises InputError when the matching values are less than half of the weights and less than half of the network.
    """
    own = network.state_dict()
    matching = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape and (classifier or not _is_classifier(name))
    }
    share_of_weights = _values(matching) / max(_values(weights), 1)
    share_of_network = _values(matching) / max(_values(own), 1)
    if max(share_of_weights, share_of_network) < 0.5:
        what = (
            f"the start weights belong to another kind of network: {len(matching)} of {len(weights)} tensors match, "
            f"{100 * share_of_weights:.0f} % of their values and {100 * share_of_network:.0f} % of this network's"
        )
        raise InputError(what, "train.init_from", "name weights of the same width and kind of blocks")
    new = tuple(name for name in own if name not in matching)
    dropped = tuple(name for name in weights if name not in matching)
    return LoadReport(tuple(matching), new, dropped)


def _values(weights: Mapping[str, Tensor]) -> int:
    """Number of values, without the classifier (it depends on the data set) and counters (they match anywhere).

    Values are counted, not tensors: most tensors belong to batch norm and match between blocks of different kinds.
    """
    return sum(tensor.numel() for name, tensor in weights.items() if tensor.dim() and not _is_classifier(name))


def _is_classifier(name: str) -> bool:
    return name.startswith("projection.")
