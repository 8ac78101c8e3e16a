"""Video files: mp4 where PyAV is installed, else animated GIF."""

from collections.abc import Iterable
from fractions import Fraction
from importlib.util import find_spec
from io import BufferedWriter, BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwrl.files.plain_files import FileError, make_folder, replacing_plain

SMALLEST_SIDE = 240
# Frames of a video, at most: mp4 is written frame by frame, a GIF is kept in memory until the end.
LONGEST = {"mp4": 10_000, "gif": 1_000}


def ending() -> str:
    """The file ending of the videos that can be written here."""
    return "mp4" if find_spec("av") is not None else "gif"


def write_video(stem: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> Path:
    """Write a video and return its path: ``stem`` with the ending that fits.

    The file is whole or not there. Frames are taken one by one; those of an mp4 are not kept.

    Args:
        stem: Path without ending; its folder is made.
        frames: ``[H W 3]`` each, one at least, all of one size. They are ``enlarged``.
        fps: Frames per second.

    Raises:
        FileError: If it cannot be written.
    """
    path = stem.with_name(f"{stem.name}.{ending()}")
    make_folder(path.parent)
    large = map(enlarged, frames)
    try:
        with replacing_plain(path) as file:
            if path.suffix == ".mp4":
                _write_mp4(file, large, fps)
            else:
                file.write(gif(large, fps))
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def enlarged(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, enlarged by a whole factor if it is small, with even sides."""
    height, width = frame.shape[:2]
    factor = max(1, -(-SMALLEST_SIDE // min(height, width)))
    # H.264 wants even sides
    height, width = height * factor // 2 * 2, width * factor // 2 * 2
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]


def gif(frames: Iterable[NDArray[np.uint8]], fps: float) -> bytes:
    """An animated GIF that plays for ever."""
    # 256 colours each, as the file has them, take a third of the memory
    images = [
        Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames
    ]
    file = BytesIO()
    options = {"append_images": images[1:], "duration": round(1000 / fps), "loop": 0}
    images[0].save(file, "GIF", save_all=True, **options)
    return file.getvalue()


def _write_mp4(file: BufferedWriter, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    import av

    rest = iter(frames)
    first = next(rest)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in chain([first], rest):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
