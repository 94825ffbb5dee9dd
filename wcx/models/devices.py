"""Where networks live."""

from __future__ import annotations

import torch

from wcx.errors import WcxError


def as_device(name: str | torch.device) -> torch.device:
    """Return a device by its name: cpu, cuda, cuda:<number> or the number alone; `auto` is a GPU where there is one.

    Raises:
        WcxError: no device, or one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    advice = "give auto, cpu, cuda or cuda:<number>."
    try:
        device = torch.device(f"cuda:{name}" if str(name).isdigit() else name)
    except (RuntimeError, TypeError) as error:
        raise WcxError(f"unknown device {name!r}; {advice}") from error
    if device.type not in ("cpu", "cuda"):
        try:
            torch.ones(1, device=device).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise WcxError(f"device {str(name)!r} cannot be used here; {advice}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise WcxError(f"device {str(device)!r} is not there: {count} GPUs are visible; give device=cpu or auto.")
    return device
