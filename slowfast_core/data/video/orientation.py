"""The display matrix of a video (ISO/IEC 14496-12, 8.3.2): how players rotate and mirror its frames.

H height and W width of a stored frame, C channels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

ALMOST_ZERO = 0.0175  # of the other coefficients: one degree, as FFmpeg rounds


@dataclass(frozen=True)
class Orientation:
    """One of eight orientations: transposition, then mirroring."""

    transposed: bool = False
    flipped_vertically: bool = False
    flipped_horizontally: bool = False

    def shown(self, picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame as a player displays it."""
        if self.transposed:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        if self.flipped_vertically:
            picture_HWC = picture_HWC[::-1]
        if self.flipped_horizontally:
            picture_HWC = picture_HWC[:, ::-1]
        return np.ascontiguousarray(picture_HWC)


AS_STORED = Orientation()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Orientation of a frame. Raises ValueError if its matrix is not made of quarter turns and mirroring."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return AS_STORED
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))  # x' = a x + c y, y' = b x + d y
    if max(abs(b), abs(c)) <= ALMOST_ZERO * min(abs(a), abs(d)) and a and d:
        return Orientation(False, d < 0, a < 0)
    if max(abs(a), abs(d)) <= ALMOST_ZERO * min(abs(b), abs(c)) and b and c:
        return Orientation(True, b < 0, c < 0)
    shown = " ".join(f"{value / 0x10000:g}" for value in (a, b, c, d))
    raise ValueError(f"its display matrix ({shown}) is not made of quarter turns and mirroring")
