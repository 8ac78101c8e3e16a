"""Pictures into a film: mp4 where PyAV is installed, else an animated GIF."""

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMALLEST_SIDE = 240


def write_video(stem: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> Path:
    """Write ``stem`` with the ending that fits and return the file's path.

    Args:
        stem: Path without ending; its folder is made.
        frames: ``[H W 3]`` each, all of one size. Small ones are enlarged without blurring.
        fps: Frames per second.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    factor = max(1, -(-SMALLEST_SIDE // min(height, width)))
    # H.264 wants even sides
    height, width = height * factor // 2 * 2, width * factor // 2 * 2
    large = [f.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width] for f in frames]
    if find_spec("av") is not None:
        return _write_mp4(stem.with_name(f"{stem.name}.mp4"), large, fps)
    path = stem.with_name(f"{stem.name}.gif")
    path.write_bytes(gif(large, fps))
    return path


def gif(frames: Sequence[NDArray[np.uint8]], fps: float) -> bytes:
    """An animated GIF that plays for ever."""
    images, file = [Image.fromarray(frame) for frame in frames], BytesIO()
    options = {"append_images": images[1:], "duration": round(1000 / fps), "loop": 0}
    images[0].save(file, "GIF", save_all=True, **options)
    return file.getvalue()


def _write_mp4(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
