"""Memory that a training needs, known before it is started."""

from vgg.net.architecture import Architecture, layers, parameter_count
from vgg.recipes.schema import Recipe


def memory_bytes(
    recipe: Recipe, architecture: Architecture, workers: int, micro_batch: int | None
) -> dict[str, int]:
    """Bytes on each worker: weights, gradients and optimizer state; activations of one micro-batch.

    Activations are what the backward pass keeps, in float32: the input, the output of every layer, and the
    int64 indices of every pooling. The libraries' workspaces are not counted.
    """
    copies = 2 + (1 if recipe.optim.name == "sgd" else 2)  # weights, gradients, optimizer's buffers
    rows = min(micro_batch or recipe.train.batch, -(-recipe.train.batch // workers))
    kept = 4 * 3 * architecture.side**2
    for layer in layers(architecture):
        kept += (12 if layer.kind == "pool" else 4) * layer.outputs
    return {
        "state": 4 * copies * parameter_count(architecture),
        "activations": kept * rows,
    }
