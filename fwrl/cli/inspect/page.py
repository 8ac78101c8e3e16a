"""One self-contained page of HTML: it holds its data, pictures and program."""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fwrl.config import ConfigError

FOLDER = Path(__file__).parent
# Bytes of a page, and of all its pictures of the environment.
LARGEST_PAGE, LARGEST_FRAMES = 20_000_000, 10_000_000
# Pixels of the longer side of a picture.
LARGEST_SIDE, SMALLEST_SIDE = 320, 64
# Shares are stored relative to the largest of their row, in so many levels to either side of 0.
STEPS = 127


def page(data: dict[str, Any]) -> str:
    """The page with these data, no text of which can become markup.

    Raises:
        ConfigError: If it is too large.
    """
    html = (FOLDER / "report.html").read_text()
    for name in ("report.css", "charts.js", "report.js"):
        html = html.replace(f"<!-- {name} -->", (FOLDER / name).read_text())
    html = html.replace("<!-- data -->", harmless_json(data))
    if len(html) > LARGEST_PAGE:
        raise ConfigError(
            f"--max-steps: the page has {len(html) / 1e6:.0f} MB; use fewer steps or episodes"
        )
    return html


def harmless_json(data: Any) -> str:
    """JSON in ASCII without the characters that could end a script or begin a tag."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def numbers(values: Any) -> Any:
    """A tensor, a number or nested lists of them, in four digits; null for what is not finite."""
    if isinstance(values, Tensor):
        return numbers(values.tolist())
    if isinstance(values, list | tuple):
        return [numbers(value) for value in cast(Sequence[Any], values)]
    number = float(cast(float, values))
    return float(f"{number:.4g}") if math.isfinite(number) else None


def map_picture(share: Float[Tensor, "T S"]) -> dict[str, Any]:
    """Shares as a picture of grey levels, 127 for zero, and the largest share of each row."""
    largest = share.abs().amax(dim=1)
    level = share / largest.clamp_min(torch.finfo(share.dtype).tiny).unsqueeze(1)
    grey = (STEPS + STEPS * level).round().clamp(0, 2 * STEPS).to(torch.uint8)
    return {"image": _data_url(Image.fromarray(grey.numpy()), "PNG"), "largest": numbers(largest)}


def frame_urls(frames: Sequence[NDArray[np.uint8]]) -> list[str]:
    """Pictures ``[H W 3]`` as data URLs, smaller where there are very many."""
    for side in (LARGEST_SIDE, LARGEST_SIDE // 2, SMALLEST_SIDE):
        urls = [_frame(frame, side) for frame in frames]
        if sum(map(len, urls)) <= LARGEST_FRAMES:
            break
    return urls


def _frame(frame: NDArray[np.uint8], side: int) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((side, side))
    # a picture as small as a map of symbols must stay sharp
    return _data_url(image, "PNG" if max(image.size) < SMALLEST_SIDE else "WEBP")


def _data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
