"""A trained net in Python: `vgg.load`, and its layers as functions of images: `vgg.features`.

Images are paths, PIL images or arrays (uint8, [H, W, 3], RGB), one or a list of them. Everything is computed by
the centre crop, as in validation during training; for the paper's other protocols see `python -m vgg.evaluate`.
`vgg.features` also takes tensors, of any size, and lets gradients through to them.

Shapes: B images, C = 3 (RGB), H and W image sides and S the crop's in pixels, K classes, F features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from cli.errors import UserError
from pipelines.loading.draw import centre
from pipelines.packing.rgb import to_rgb
from vgg.net.module import VGG
from vgg.testing.prediction import open_image
from vgg.weights.open_net import TORCHVISION_MEAN, TORCHVISION_STD, open_net
from vgg.weights.trained_net import TrainedNet

AnyImage = str | Path | Image.Image | np.ndarray

LAYERS = ("pool5", "fc6", "fc7", "fc8")
"""What `LoadedNet.features` can return: the last feature map, flattened, or a fully connected layer's output,
that of fc6 and fc7 after the ReLU."""

BATCH = 32

TORCHVISION = ("vgg11", "vgg13", "vgg16", "vgg19")

Values = Literal["pixels", "unit", "standardised"]
"""What the numbers of a tensor are: pixels from 0 to 255; pixels from 0 to 1, as torchvision's `ToTensor` makes
them; these less ImageNet's mean and divided by its deviation, as torchvision's `Normalize` leaves them."""


def load(reference: str | Path) -> "LoadedNet":
    """The net of a run's folder (its best checkpoint), a checkpoint's, `runs:/RUN` or `models:/MODEL` of
    MLflow, or a weights file of torchvision's vgg11, 13, 16 or 19.

    UserError if there is none or it is damaged.
    """
    net = open_net(str(reference))
    net.require_classifier()
    return LoadedNet(net)


def features(
    images: "torch.Tensor | AnyImage | Sequence[AnyImage]",
    layers: Sequence[str] = ("conv1_2", "conv3_3"),
    *,
    net: "str | Path | LoadedNet" = "vgg16",
    values: Values | None = None,
) -> dict[str, torch.Tensor]:
    """Outputs of these layers by name, float32 [B, C, H, W], for perceptual losses, style and the like.

    `images`: a tensor [B, 3, H, W], RGB, of any size, on the net's device: gradients go through to it, and
    `values` says what its numbers are (of uint8: pixels); or files, PIL images and arrays, as for `load`, whose
    centre crops are taken as the net's own preprocessing does. Whichever it is, the net gets what it was
    trained on: ours pixels less their mean, torchvision's standardised ones.

    `layers`: of table 1 by their names (conv1_1, pool1, … fc8); convolutions, fc6 and fc7 after the ReLU.
    `net`: what `load` returned or takes, or vgg11, vgg13, vgg16, vgg19 for the weights that torchvision keeps
    on this machine. ValueError for layers or images that do not fit, UserError for a net that is not there.
    """
    if not isinstance(net, LoadedNet):
        net = load(_torchvision_file(net) if net in TORCHVISION else net)
    return net.activations(images, layers, values)


def _torchvision_file(name: str | Path) -> Path:
    """Where torchvision keeps the weights of its net of this name once it has fetched them."""
    import torchvision

    url = torchvision.models.get_model_weights(str(name)).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise UserError(
            f"torchvision's {name} is not on this machine (no {file}): "
            f'torchvision.models.{name}(weights="DEFAULT") fetches it, or name another net'
        )
    return file


class LoadedNet:
    """A trained net on the CPU, in fp32, with its own preprocessing."""

    def __init__(self, net: TrainedNet) -> None:
        self.net = net
        """Weights, architecture, recipe, lineage."""
        self.module: VGG = net.module()
        """The torch module: crops as `transform` makes them -> scores [B, K, 1, 1]."""

    def __repr__(self) -> str:
        net, scale = self.net.architecture, self.net.training_input.test_scale
        what = f"configuration {net.configuration}, {net.classes} classes"
        return f"LoadedNet({self.name}: {what}, crops of {net.side} pixels from images of {scale})"

    @property
    def name(self) -> str:
        """Recipe, or data and configuration, and the first digits of the weights' SHA-256."""
        return self.net.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the outputs; "class 0", "class 1" … where the weights name none."""
        return self.net.class_names or tuple(f"class {k}" for k in range(self.net.architecture.classes))

    def transform(self, image: AnyImage) -> torch.Tensor:
        """The net's input for an image, [C, S, S] float32: the shorter side rescaled to the validation scale,
        the centre crop, RGB from 0 to 255 less the net's mean.

        For torchvision's nets the crop is torchvision's to the pixel, and their scaling of the pixels is part
        of the first convolution: the scores are those of torchvision's own preprocessing. UserError if a file
        cannot be read, ValueError if an array is no image.
        """
        found = _opened(image)
        size, (left, top) = self._geometry(found.width, found.height)
        side = self.net.architecture.side
        crop = found.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
        pixels_SSC = np.asarray(crop, np.float32) - np.asarray(self.net.mean_rgb, np.float32)
        return torch.from_numpy(pixels_SSC).permute(2, 0, 1)

    def scores(self, images: AnyImage | Sequence[AnyImage]) -> torch.Tensor:
        """Class scores before the soft-max (logits), [B, K] float32."""
        return self.features(images, "fc8")

    def posteriors(self, images: AnyImage | Sequence[AnyImage]) -> np.ndarray:
        """Class probabilities, [B, K] float32."""
        return self.scores(images).softmax(1).numpy()

    def predict(self, images: AnyImage | Sequence[AnyImage], top: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the `top` most probable classes with their probabilities, the best first."""
        posteriors_BK = self.posteriors(images)
        best_BK = np.argsort(-posteriors_BK, axis=1, kind="stable")[:, :top]
        return [
            [(self.class_names[k], float(posterior_K[k])) for k in best_K]
            for posterior_K, best_K in zip(posteriors_BK, best_BK, strict=True)
        ]

    def features(self, images: AnyImage | Sequence[AnyImage], layer: str = "fc7") -> torch.Tensor:
        """Outputs of one of `LAYERS`, [B, F] float32. ValueError for another layer; see also `transform`."""
        if layer not in LAYERS:
            raise ValueError(f"layer {layer!r} is not one of {', '.join(LAYERS)}")
        many = _listed(images)
        parts = [self._batch(many[first : first + BATCH], layer) for first in range(0, len(many), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, self._width(layer))

    @torch.inference_mode()
    def _batch(self, images: Sequence[AnyImage], layer: str) -> torch.Tensor:
        crops_BCSS = torch.stack([self.transform(image) for image in images])
        features_BF = self.module.features(crops_BCSS.contiguous(memory_format=torch.channels_last)).flatten(1)
        for name in LAYERS[1 : LAYERS.index(layer) + 1]:
            features_BF = self.module.get_submodule(name)(features_BF)
            if name != "fc8":
                features_BF = features_BF.relu()
        return features_BF.clone()  # an inference tensor cannot be trained on

    def activations(
        self,
        images: torch.Tensor | AnyImage | Sequence[AnyImage],
        layers: Sequence[str],
        values: Values | None = None,
    ) -> dict[str, torch.Tensor]:
        """As `vgg.features`."""
        if isinstance(images, torch.Tensor):
            return self.module.activations(self._input(images, values), layers)
        if values is not None:
            raise ValueError("values are of tensors: files, PIL images and arrays are pixels")
        with torch.no_grad():
            crops_BCSS = torch.stack([self.transform(image) for image in _listed(images)])
            return self.module.activations(crops_BCSS, layers)

    def _input(self, images_BCHW: torch.Tensor, values: Values | None) -> torch.Tensor:
        """The net's input for a tensor. ValueError if it is no images, or nobody says what its numbers are."""
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
            raise ValueError(f"a tensor of images is [B, 3, H, W], not {list(images_BCHW.shape)}")
        if images_BCHW.dtype == torch.uint8 and values in (None, "pixels"):
            images_BCHW, values = images_BCHW.float(), "pixels"
        if not images_BCHW.is_floating_point() or values not in ("pixels", "unit", "standardised"):
            raise ValueError(
                f"of a tensor of {images_BCHW.dtype} say values=: 'pixels' (0 to 255), 'unit' (0 to 1) or "
                f"'standardised' (by torchvision's Normalize), not {values!r}; uint8 is pixels"
            )
        mean_C11, own_mean_C11, std_C11 = (
            torch.tensor(of_channel, dtype=images_BCHW.dtype, device=images_BCHW.device)[:, None, None]
            for of_channel in (TORCHVISION_MEAN, self.net.mean_rgb, TORCHVISION_STD)
        )
        if values == "standardised":
            images_BCHW = images_BCHW * std_C11 + mean_C11
        return (images_BCHW if values == "pixels" else 255 * images_BCHW) - own_mean_C11

    def _width(self, layer: str) -> int:
        following = LAYERS.index(layer) + 1
        if following == len(LAYERS):
            return self.net.architecture.classes
        width = self.module.get_parameter(f"{LAYERS[following]}.weight").shape[1]
        return int(width)

    def _geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) to rescale to, and (left, top) of the centre crop in it."""
        side, scale = self.net.architecture.side, self.net.training_input.test_scale
        # torchvision's Resize cuts the longer side off, its CenterCrop rounds.
        if self.net.recipe.startswith("torchvision-"):
            shorter = min(width, height)
            scaled_width, scaled_height = (int(scale * length / shorter) for length in (width, height))
            return (scaled_width, scaled_height), (
                round((scaled_width - side) / 2.0),
                round((scaled_height - side) / 2.0),
            )
        draws = centre(np.array([height]), np.array([width]), side, scale)
        corner = int(draws.left_B[0]), int(draws.top_B[0])
        return (int(draws.scaled_width_B[0]), int(draws.scaled_height_B[0])), corner


def _listed(images: AnyImage | Sequence[AnyImage]) -> list[AnyImage]:
    """One image or many as a list."""
    single = isinstance(images, AnyImage) and getattr(images, "ndim", 3) == 3
    return [images] if single else list(images)  # type: ignore[list-item, arg-type]


def _opened(image: AnyImage) -> Image.Image:
    if isinstance(image, str | Path):
        return open_image(Path(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    return to_rgb(image)
