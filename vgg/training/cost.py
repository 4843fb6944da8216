"""What a training needs of a machine, before it is started."""

from vgg.net.architecture import Architecture, layers, parameter_count
from vgg.recipes.schema import Recipe


def memory_bytes(
    recipe: Recipe, architecture: Architecture, workers: int, micro_batch: int | None
) -> dict[str, int]:
    """Bytes a worker holds: the state of the training, and the activations of one micro-batch.

    Activations are what the backward pass keeps, in float32: the input, the output of every layer, and the
    int64 indices of every pooling. The library's own work space comes on top.
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
