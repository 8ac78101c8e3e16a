"""Pictures into a film: mp4 where PyAV is installed, else an animated GIF."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES_PER_SECOND = 30
SMALLEST_SIDE = 240


def write_video(stem: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    """Write ``stem`` with the ending that fits and return the file's path.

    Args:
        stem: Path without ending; its folder is made.
        frames: ``[H W 3]`` each, all of one size. Small ones are enlarged without blurring.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    factor = max(1, -(-SMALLEST_SIDE // min(height, width)))
    # H.264 wants even sides
    even = (
        [f[: height // 2 * 2 or 1, : width // 2 * 2 or 1] for f in frames] if factor % 2 else frames
    )
    large = [frame.repeat(factor, axis=0).repeat(factor, axis=1) for frame in even]
    if find_spec("av") is not None:
        return _write_mp4(stem.with_suffix(".mp4"), large)
    images = [Image.fromarray(frame) for frame in large]
    path = stem.with_suffix(".gif")
    duration = round(1000 / FRAMES_PER_SECOND)
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)
    return path


def _write_mp4(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
