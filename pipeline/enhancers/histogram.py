"""Histogram equalisation (HE): spread a frame's luma over all codes, as the script that comes with ARID does."""

import cv2
import numpy as np

from pipeline.enhancers.frame_by_frame import FrameByFrame, Pixels


class Histogram(FrameByFrame):
    """RGB to YCrCb, equalise Y, and back, all on 8-bit codes.

    A code of Y becomes 255 times the share of pixels with a code up to it, where pixels of the smallest code do not
    count. A frame of one code stays as it is.
    """

    def enhance_frame(self, frame: Pixels) -> Pixels:
        """Equalise the luma of one frame rounded to 8-bit codes; see FrameByFrame."""
        codes = np.rint(frame * 255).astype(np.uint8)
        planes = cv2.cvtColor(codes, cv2.COLOR_RGB2YCrCb)
        planes[..., 0] = cv2.equalizeHist(planes[..., 0])
        return cv2.cvtColor(planes, cv2.COLOR_YCrCb2RGB).astype(np.float64) / 255
