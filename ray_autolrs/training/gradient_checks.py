"""Whether a loss and its gradients can be trained on. Each look waits for the device."""

from __future__ import annotations

from torch import Tensor

from ray_autolrs.training.replica import Replica
from ray_autolrs.training.sharding import whole


def counts_nothing(replica: Replica, loss: Tensor) -> bool:
    """Return whether a loss is 0 / 0, the mean over no label: nan, and without a gradient.

    It sets the gradients where the loss has some; on workers of a wrapped or sharded
    model, all must call it.
    """
    replica.clear_gradients()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    return bool(loss.isnan()) and not any(
        parameter.grad is not None and bool(whole(parameter.grad).count_nonzero())
        for parameter in replica.module.parameters()
    )


def bad_gradient(replica: Replica) -> tuple[str, str] | None:
    """Return the name of the first parameter whose gradient is not finite, and what it holds."""
    for name, parameter in replica.module.named_parameters():
        held = None if parameter.grad is None else not_finite(parameter.grad)
        if held is not None:
            return name, held
    return None


def not_finite(tensor: Tensor) -> str | None:
    """Return ``"nan"`` or ``"inf"`` if a tensor holds it, else None."""
    tensor = whole(tensor)
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    if tensor.isnan().any():
        return "nan"
    return "inf" if tensor.isinf().any() else None
