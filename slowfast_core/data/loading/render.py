"""Renders the network's input from decoded frames, on the network's device.

B clips, C channels, T frames, H height, W width; R rows of coded planes, 3/2 H. Resizing, cropping and mirroring are
one bilinear sampling of the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from slowfast_core.data.clip_store.optical_flow import NO_MOTION
from slowfast_core.data.loading.sampling import Color, View
from slowfast_core.recipe.schema import Pixels

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601
AT_ONCE = 64  # frames converted to float at a time, to limit memory
FLOW_STD = 0.225 * 255  # standard deviation of quantised flow, as for RGB: LIMIT becomes 2.2


def render(frames: Tensor, view: View, pixels: Pixels) -> Tensor:
    """Render uint8 frames as a float view `[C, T, out_height, out_width]`, normalised with `pixels`; flow comes last.

    The frames are RGB with or without flow, `[T, H, W, C]`, or coded planes, `[T, R, W]`.
    """
    parts = [_render(frames[i : i + AT_ONCE], view, pixels) for i in range(0, len(frames), AT_ONCE)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def rgb_of_planes(planes_TRW: Tensor) -> Tensor:
    """Convert 4:2:0 planes (BT.601, 16..235) to RGB `[T, H, W, 3]`, with the same bytes as FFmpeg on x86.

    The result is therefore the same in the loader and on the device, which receives half the bytes.
    """
    frames, rows, width = planes_TRW.shape
    height = rows * 2 // 3
    y_THW = (planes_TRW[:, :height].int() - 16) * 8 * 9539 >> 16
    uv_2Thw = planes_TRW[:, height:].reshape(frames, 2, height // 2, width // 2).transpose(0, 1).int()
    u_Thw, v_Thw = (uv_2Thw - 128) * 8
    shares = [v_Thw * 13075 >> 16, (u_Thw * -3209 >> 16) + (v_Thw * -6660 >> 16), u_Thw * 16525 >> 16]
    blocks_Thw22 = y_THW.reshape(frames, height // 2, 2, width // 2, 2).transpose(2, 3)
    channels = [(blocks_Thw22 + share[..., None, None]).clamp_(0, 255).byte() for share in shares]
    return torch.stack([c.transpose(2, 3).reshape(frames, height, width) for c in channels], dim=-1)


def _render(frames: Tensor, view: View, pixels: Pixels) -> Tensor:
    frames_THWC = rgb_of_planes(frames) if frames.ndim == 3 else frames
    height, width = frames_THWC.shape[1:3]
    if cut := _is_cut(view):
        x, y = int(view.x), int(view.y)
        frames_THWC = frames_THWC[:, y : y + view.out_height, x : x + view.out_width]
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2).float()
    if not cut:
        grid_THW2 = _grid(view, width, height, frames_TCHW.device).expand(len(frames_TCHW), -1, -1, -1)
        frames_TCHW = functional.grid_sample(frames_TCHW, grid_THW2, padding_mode="border", align_corners=False)
    frames_CTHW = frames_TCHW.transpose(0, 1)
    pictures_CTHW, flow_CTHW = frames_CTHW[:3].div_(255), frames_CTHW[3:]
    if view.color:
        pictures_CTHW = recolored(pictures_CTHW, view.color)
    if pixels.order == "bgr":
        pictures_CTHW = pictures_CTHW.flip(0)
    for channel_THW, mean, std in zip(pictures_CTHW, pixels.mean, pixels.std, strict=True):
        channel_THW.sub_(mean).div_(std)  # Python numbers avoid a transfer to the device
    if not len(flow_CTHW):
        return pictures_CTHW
    return torch.cat([pictures_CTHW, _scaled(flow_CTHW, view)])


def recolored(pictures_CTHW: Tensor, color: Color) -> Tensor:
    """RGB pictures of 0..1 with changed colors, which may leave 0..1. Each factor mixes a picture with another one.

    Brightness mixes it with black, saturation with its gray picture, and contrast with the mean of its gray picture.
    """
    for name, factor in color.factors:
        if name == "brightness":
            pictures_CTHW = pictures_CTHW * factor
            continue
        red_THW, green_THW, blue_THW = pictures_CTHW
        gray_THW = GRAY[0] * red_THW + GRAY[1] * green_THW + GRAY[2] * blue_THW
        other_THW = gray_THW if name == "saturation" else gray_THW.mean(dim=(1, 2), keepdim=True)
        pictures_CTHW = pictures_CTHW * factor + other_THW * (1 - factor)
    return torch.stack([channel_THW + shift for channel_THW, shift in zip(pictures_CTHW, color.shift, strict=True)])


def render_batch(frames: Sequence[Tensor], views: Sequence[View], pixels: Pixels, device: torch.device) -> Tensor:
    """Render clips of any size with views of one size: `[B, C, T, H, W]` on `device`, channels last in memory."""
    clips = [render(f.to(device, non_blocking=True), v, pixels) for f, v in zip(frames, views, strict=True)]
    return torch.stack(clips).contiguous(memory_format=torch.channels_last_3d)


def _scaled(flow_CTHW: Tensor, view: View) -> Tensor:
    """Normalised flow in pixels of the view: scaled with the frame, and x negated if the view is mirrored."""
    stretch_x, stretch_y = view.out_width / view.width, view.out_height / view.height
    flow_x_THW, flow_y_THW = flow_CTHW.sub_(NO_MOTION).div_(FLOW_STD)
    return torch.stack([flow_x_THW * (-stretch_x if view.flip else stretch_x), flow_y_THW * stretch_y])


def _is_cut(view: View) -> bool:
    """Whether the view is an unscaled crop at whole pixels, which needs no interpolation."""
    same_size = (view.width, view.height) == (view.out_width, view.out_height)
    return same_size and not view.flip and float(view.x).is_integer() and float(view.y).is_integer()


def _grid(view: View, width: int, height: int, device: torch.device) -> Tensor:
    """Sampling positions `[1, H, W, 2]` in the source's [-1, 1] coordinates."""
    half_width, half_height = view.width / width, view.height / height
    centre_x = (2 * view.x + view.width) / width - 1
    centre_y = (2 * view.y + view.height) / height - 1
    mirrored = -half_width if view.flip else half_width
    theta = torch.tensor([[[mirrored, 0, centre_x], [0, half_height, centre_y]]], device=device)
    return functional.affine_grid(theta, [1, 3, view.out_height, view.out_width], align_corners=False)
