"""CUDA graphs: what launches many kernels, recorded once and then launched as one."""

import gc
import warnings
from collections.abc import Callable

import torch

_STREAMS: dict[int, torch.cuda.Stream] = {}  # for recording, by device: torch's own belongs to the first one alone
WARM_UP = 3  # first calls, made one by one: libraries set themselves up in them, and kernels are compiled


class Captured:
    """A function without arguments that works on a device; on a CUDA device, after its first calls, as a graph.

    The function must read from and write to the same tensors each time, and not wait for the device.

    Args:
        function: what is called.
        device: where it works.
        enabled: False calls the function each time.

    Example:
        >>> count = torch.zeros(())
        >>> update = Captured(lambda: count.add_(1), torch.device("cpu"))
        >>> update(), update(), count
        (None, None, tensor(2.))
    """

    def __init__(self, function: Callable[[], None], device: torch.device, enabled: bool = True):
        self.function, self.device = function, device
        self.enabled, self.calls = enabled and device.type == "cuda", 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.device.type != "cuda":
            self.function()
            return
        with torch.cuda.device(self.device):  # the stream, and the kernels, of this device and not of the current one
            if self.enabled and self.graph is None and self.calls >= WARM_UP:
                self._record()
            if self.graph is not None:
                self.graph.replay()
            else:
                self.function()
        self.calls += 1

    def _record(self) -> None:
        device = torch.cuda.current_device()  # this one, see `__call__`
        if device not in _STREAMS:
            _STREAMS[device] = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types there
        before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        gc.collect()  # a graph that is destroyed while another is recorded spoils that one
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, stream=_STREAMS[device]):
                self.function()
            self.graph = graph
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # torch leaves its own in place where a recording fails,
            generator = torch.cuda.default_generators[device]
            generator.graphsafe_set_state(generator.clone_state())  # and a generator that waits for the recording's end
            self.enabled = False
            warnings.warn(
                f"this update cannot be recorded as a CUDA graph ({error}): updates are launched one by one, to the "
                f"same result but more slowly.",
                stacklevel=2,
            )
        finally:
            if collects:
                gc.enable()
