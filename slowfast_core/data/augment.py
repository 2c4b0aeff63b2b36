"""From decoded frames to the network's input, on the network's device.

B clips, C channels, T frames, H height, W width. Resize, crop and mirror are one bilinear sampling of the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from slowfast_core.data.flow import NO_MOTION
from slowfast_core.data.sampling import View
from slowfast_core.sections import Pixels

FLOW_STD = 0.225 * 255  # of quantised flow, as of a picture: LIMIT becomes 2.2


def render(frames_THWC: Tensor, view: View, pixels: Pixels) -> Tensor:
    """uint8 RGB frames to a float view `[C, T, out_height, out_width]`, normalised as `pixels` says; flow behind it."""
    height, width = frames_THWC.shape[1:3]
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2).float()
    if not _is_identity(view, width, height):
        grid_THW2 = _grid(view, width, height, frames_TCHW.device).expand(len(frames_TCHW), -1, -1, -1)
        frames_TCHW = functional.grid_sample(frames_TCHW, grid_THW2, padding_mode="border", align_corners=False)
    frames_CTHW = frames_TCHW.transpose(0, 1)
    pictures_CTHW, flow_CTHW = frames_CTHW[:3].div_(255), frames_CTHW[3:]
    if pixels.order == "bgr":
        pictures_CTHW = pictures_CTHW.flip(0)
    for channel_THW, mean, std in zip(pictures_CTHW, pixels.mean, pixels.std, strict=True):
        channel_THW.sub_(mean).div_(std)  # numbers, not tensors: nothing is sent to the device
    if not len(flow_CTHW):
        return pictures_CTHW
    return torch.cat([pictures_CTHW, _scaled(flow_CTHW, view)])


def render_batch(frames: Sequence[Tensor], views: Sequence[View], pixels: Pixels, device: torch.device) -> Tensor:
    """Clips of any source size, views of one size: `[B, C, T, H, W]` on `device`, channels last in memory."""
    clips = [render(f.to(device, non_blocking=True), v, pixels) for f, v in zip(frames, views, strict=True)]
    return torch.stack(clips).contiguous(memory_format=torch.channels_last_3d)


def _scaled(flow_CTHW: Tensor, view: View) -> Tensor:
    """Centred flow, as long as the view shows it: stretched with the picture, and x turned round with it."""
    stretch_x, stretch_y = view.out_width / view.width, view.out_height / view.height
    flow_x_THW, flow_y_THW = flow_CTHW.sub_(NO_MOTION).div_(FLOW_STD)
    return torch.stack([flow_x_THW * (-stretch_x if view.flip else stretch_x), flow_y_THW * stretch_y])


def _is_identity(view: View, width: int, height: int) -> bool:
    return view == View(0, 0, width, height, height, width)


def _grid(view: View, width: int, height: int, device: torch.device) -> Tensor:
    """Sampling positions `[1, H, W, 2]` in the source's [-1, 1] coordinates."""
    half_width, half_height = view.width / width, view.height / height
    centre_x = (2 * view.x + view.width) / width - 1
    centre_y = (2 * view.y + view.height) / height - 1
    mirrored = -half_width if view.flip else half_width
    theta = torch.tensor([[[mirrored, 0, centre_x], [0, half_height, centre_y]]], device=device)
    return functional.affine_grid(theta, [1, 3, view.out_height, view.out_width], align_corners=False)
