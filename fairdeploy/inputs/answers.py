"""What can be asked of the original's answers: their shape, what reaches its norms, its labels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fairdeploy.errors import DataError, ModelError
from fairdeploy.records import DataSplits


def checked_output(main: Tensor, batch: int) -> Tensor:
    """The main output, whose first dimension is the images.

    Args:
        main: Of the network.
        batch: How many images it was given.

    Raises:
        ModelError: No dimension holds them.
    """
    if main.shape[0] != batch:
        raise ModelError(
            f"the model's output has shape {list(main.shape)} for {batch} images: no dimension of "
            "it counts images, so that there is no answer for each; let the forward return one, or "
            "choose another --main-output"
        )
    return main


def require_judged(data: DataSplits, *, max_drop: float | None, learns_labels: bool) -> None:
    """Refuse what would decide or learn by labels that say nothing.

    Raises:
        DataError: ``--max-drop`` or ``--finetune`` without ``--distill`` is asked for.
    """
    if data.not_judged is None or not (max_drop is not None or learns_labels):
        return
    option, way_out = ("--max-drop", "give a --budget instead") if max_drop is not None else (
        "--finetune", "learn without labels (--distill)"
    )  # fmt: skip
    raise DataError(
        f"{option} cannot go by these labels: {data.not_judged.reason}; {data.not_judged.remedy}; "
        f"or {way_out}"
    )


def norm_distance(network: nn.Module, run: Callable[[], object]) -> float | None:
    """How far from its running mean lies what reaches the first batch norm, in its deviations.

    The network is left as it was; None if it has no such norm.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [m for m in network.modules() if isinstance(m, kinds) and m.running_mean is not None]
    found: list[float] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = norm.running_mean, norm.running_var
        if found or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return
        axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
        off = (inputs[0].float().mean(axes) - mean).abs() / (variance + 1e-5).sqrt()
        found.append(float(off.detach().mean()))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
