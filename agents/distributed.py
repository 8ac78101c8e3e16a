"""Communication between the processes of one training, each with environments of its own.

All processes call every function, in the same order and with tensors of the same shape, and get
bitwise equal results. With a single process each function returns its argument.

``torchrun`` tells the processes by environment variables where to meet. Tensors on the CPU are sent
by gloo, those on a GPU by nccl, so that a flag or a metric never waits for a GPU.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed, nn

from fwrl.config import ConfigError

# The others wait this long for the first process, which evaluates and saves alone.
PATIENCE = timedelta(hours=1)


def num_processes() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _joined() else 0


def is_first() -> bool:
    """Whether this process is the one that logs, evaluates and saves."""
    return rank() == 0


def restarted() -> bool:
    """Whether the launcher has started the processes again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process where each has one, the given device otherwise.

    Raises:
        ConfigError: If there are fewer GPUs than processes on this machine.
    """
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    count = torch.cuda.device_count()
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if beside > count:
        raise ConfigError(
            f"device is 'cuda'; of {beside} processes each needs a CUDA device and this machine "
            f"has {count}; start at most {count}, or use cpu"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def join(device: torch.device) -> None:
    """Connect this process, which computes on ``device``, to others that a launcher started.

    Raises:
        ConfigError: If the launcher has not said where to meet.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1" or _joined():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except ValueError as error:
        raise ConfigError(
            f"WORLD_SIZE is {count}; start by torchrun, or unset it ({error})"
        ) from None


def leave() -> None:
    """Wait until all processes are here, then disconnect."""
    if _joined():
        any_process(False)
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes, in one reduction.

    A missing gradient counts as zero and is created: another process may have one.
    """
    if num_processes() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in trained]
    bucket = _bucket(sum(sizes), trained[0].dtype, trained[0].device)
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [cast(Tensor, parameter.grad) for parameter in trained]
    torch.cat([gradient.flatten() for gradient in gradients], out=bucket)
    if num_processes() == 2 and bucket.device.type == "cpu":
        # sends as many bytes as the ring algorithm, in one round of messages instead of two
        bucket = gather(bucket).sum(0)
    else:
        distributed.all_reduce(bucket)
    bucket /= num_processes()
    for gradient, part in zip(gradients, bucket.split(sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


@lru_cache(maxsize=1)
def _bucket(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=dtype, device=device)


def moments(rows: Float[Tensor, "B D"]) -> tuple[int, Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Number, mean and variance of the rows of all processes, which have equally many."""
    if num_processes() == 1:
        return rows.shape[0], rows.mean(0), rows.var(0, correction=0)
    return _joint_moments(rows.shape[0], gather(_own_moments(rows)))


def start_mean_and_std(
    x: Float[Tensor, "..."],
) -> Callable[[], tuple[Float[Tensor, ""], Float[Tensor, ""]]]:
    """Start computing the mean and unbiased standard deviation over all processes.

    The returned function waits for the result; computation before that call overlaps with the
    communication.
    """
    if num_processes() == 1:
        return lambda: (x.mean(), x.std())
    numbers = x.reshape(-1, 1).double()
    arrive = _start_gather(_own_moments(numbers))

    def finish() -> tuple[Tensor, Tensor]:
        count, mean, variance = _joint_moments(x.numel(), arrive())
        std = (variance * (count / (count - 1))).sqrt()
        return mean.to(x.dtype).squeeze(), std.to(x.dtype).squeeze()

    return finish


def _own_moments(rows: Float[Tensor, "B D"]) -> Float[Tensor, "2 D"]:
    return torch.stack([rows.mean(0), rows.var(0, correction=0)])


def _joint_moments(
    count: int, of_each: Float[Tensor, "P 2 D"]
) -> tuple[int, Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Number, mean and variance of all rows, of which each of P processes has ``count``."""
    means, variances = of_each.unbind(1)
    mean = means.mean(0)
    return len(of_each) * count, mean, (variances + (means - mean).square()).mean(0)


def average(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean over all processes."""
    return x if num_processes() == 1 else gather(x).mean()


def average_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The means over all processes, without those that have NaN."""
    if num_processes() == 1:
        return dict(metrics)
    values = gather(torch.tensor(list(metrics.values()), dtype=torch.float64))
    return dict(zip(metrics, values.nanmean(0).tolist(), strict=True))


def any_process(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if num_processes() == 1:
        return list(flags)
    return gather(torch.tensor(flags)).any(0).tolist()


def alike(text: str) -> bool:
    """Whether all processes have the same text."""
    digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
    return bool((gather(digest) == digest).all())


def gather(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "P ..."]:
    """The tensors of all processes, stacked by rank."""
    return x.unsqueeze(0) if num_processes() == 1 else _start_gather(x)()


def _start_gather(x: Shaped[Tensor, "..."]) -> Callable[[], Shaped[Tensor, "P ..."]]:
    """Send ``x``; the returned function waits for the tensors of the others."""
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    under_way = distributed.all_gather(parts, x.contiguous(), async_op=True)

    def arrive() -> Tensor:
        assert under_way is not None, "an asynchronous call returns its work"
        under_way.wait()
        return torch.stack(parts)

    return arrive


def gather_rows(rows: Shaped[Tensor, "B D"]) -> Shaped[Tensor, "rows D"]:
    """The rows of all processes, which may have different numbers of them."""
    return rows if num_processes() == 1 else torch.cat(_gather_uneven(rows))


def gather_bytes(data: bytes) -> list[bytes]:
    """The bytes of all processes by rank; lengths may differ."""
    if num_processes() == 1:
        return [data]
    numbers = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    return [part.numpy().tobytes() for part in _gather_uneven(numbers)]


def _gather_uneven(rows: Shaped[Tensor, "B ..."]) -> list[Shaped[Tensor, "_ ..."]]:
    counts = gather(torch.tensor(rows.shape[0])).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    return [part[:count] for part, count in zip(gather(padded), counts, strict=True)]


def copy_from_first(module: nn.Module) -> None:
    """Copy the first process's parameters and buffers to all others."""
    if num_processes() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


def from_first(make: Callable[[], bytes]) -> bytes:
    """The result of ``make``, which only the first process calls, in all processes.

    Raises:
        ConfigError: In the others, if ``make`` raised an exception in the first.
    """
    if num_processes() == 1:
        return make()
    made, failure = b"", None
    if is_first():
        try:
            made = make()
        # whatever failed, the others must not wait for ever
        except Exception as error:
            failure = error
    size = torch.tensor(-1 if failure else len(made))
    distributed.broadcast(size, 0)
    if failure:
        raise failure
    if size < 0:
        raise ConfigError("the first process of this training has failed and says why")
    buffer = torch.zeros(int(size), dtype=torch.uint8)
    if made:
        buffer.copy_(torch.frombuffer(bytearray(made), dtype=torch.uint8))
    if size:
        distributed.broadcast(buffer, 0)
    return buffer.numpy().tobytes()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
