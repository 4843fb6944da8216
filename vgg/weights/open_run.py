"""Open the net of a run's folder or of a checkpoint's: what needs no MLflow."""

from collections.abc import Mapping
from typing import Any

import torch

from cli.errors import UserError
from vgg.net.module import VGG
from vgg.weights.finished import is_finished
from vgg.weights.retention import open_checkpoint
from vgg.weights.trained_net import TrainedNet


def open_run(reference: str, flag: str = "", *, underway: bool = False) -> TrainedNet:
    """The net of a checkpoint's folder or a run's, whose best checkpoint is used, as a path or a URI.

    `flag`: by which the user named it; `underway`: whether a job runs already. UserError if there is none or it
    is damaged, Failure if its store fails a job underway.
    """
    checkpoint = open_checkpoint(reference, flag, underway=underway)
    finished = is_finished(reference, checkpoint.metadata, flag, underway=underway)
    return restored_net(f"{flag} {reference}".strip(), checkpoint.model, checkpoint.metadata, finished=finished)


def restored_net(
    described: str, weights: dict[str, torch.Tensor], metadata: Mapping[str, Any], *, finished: bool = True
) -> TrainedNet:
    """UserError if the metadata are none of a training, or the weights not those of its architecture.

    `described`: how messages name the net.
    """
    try:
        net = TrainedNet.from_checkpoint(weights, metadata, finished=finished)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{described} is no net of python -m vgg.train: its metadata are malformed ({error!r})"
        ) from error
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in VGG(net.architecture).state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != wanted:
        raise UserError(f"{described} is damaged: its weights are not those of {net.architecture}")
    return net
