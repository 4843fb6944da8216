"""Memory that a training needs, known before it is started."""

from collections.abc import Iterable

from cluster.layout import Layout
from vgg.net.architecture import Architecture, Layer, blocks, layers, parameter_count
from vgg.recipes.schema import Recipe


def memory_bytes(recipe: Recipe, architecture: Architecture, layout: Layout) -> dict[str, int]:
    """Bytes on each worker: weights, gradients and optimizer state; activations of one micro-batch.

    Activations are what the backward pass keeps, in float32: the input, the output of every layer, and the
    int64 indices of every pooling; with `--layout.recompute` the outputs of the poolings, and the others of one
    block at a time. The libraries' workspaces are not counted.
    """
    copies = 2 + (1 if recipe.optim.name == "sgd" else 2)  # weights, gradients, optimizer's buffers
    rows = min(layout.micro_batch or recipe.train.batch, _share(recipe, layout))
    activations = _activations_of_image(architecture, layout) * rows
    return {"state": 4 * copies * parameter_count(architecture), "activations": activations}


def largest_micro_batch(recipe: Recipe, architecture: Architecture, layout: Layout, limit_bytes: float) -> int:
    """Most images of a pass whose `memory_bytes` are within the limit, a worker's share at most; 0: none."""
    left = limit_bytes - memory_bytes(recipe, architecture, layout)["state"]
    fitting = int(left // _activations_of_image(architecture, layout))
    return max(0, min(fitting, _share(recipe, layout)))


def _share(recipe: Recipe, layout: Layout) -> int:
    """Rows of the batch on the worker that has most of them."""
    return -(-recipe.train.batch // layout.workers)


def _activations_of_image(architecture: Architecture, layout: Layout) -> int:
    of_image = 4 * 3 * architecture.side**2 + _kept(layers(architecture))
    if layout.recompute:
        inner = [_kept(block) - 4 * block[-1].outputs for block in blocks(layers(architecture))]
        of_image += max(inner) - sum(inner)
    return of_image


def _kept(found: Iterable[Layer]) -> int:
    """Bytes of an image's outputs of these layers, and of the poolings' indices."""
    return sum((12 if layer.kind == "pool" else 4) * layer.outputs for layer in found)
