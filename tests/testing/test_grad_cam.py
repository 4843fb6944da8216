"""Grad-CAM against a computation by hand in torchvision's net.

Shapes: C channels, h and w sides of the last convolution's map.
"""

import numpy as np
import torch

from tests.photos import picture
from vgg.testing.grad_cam import grad_cam
from vgg.testing.prediction import rescaled_input
from vgg.weights.open_net import open_net

LAST_RELU = 19  # its place in torchvision's vgg11.features


def by_hand(theirs, image_CHW, label):
    """Score of a class averaged over the places of the classifier, gradient at the last ReLU, weighted sum."""
    kept: dict[str, torch.Tensor] = {}
    handle = theirs.features[LAST_RELU].register_forward_hook(
        lambda _module, _inputs, output: kept.__setitem__("maps", output)
    )
    pooled = theirs.features(image_CHW[None])
    handle.remove()
    down, across = pooled.shape[2] - 6, pooled.shape[3] - 6
    places = [pooled[:, :, y : y + 7, x : x + 7].flatten(1) for y in range(down) for x in range(across)]
    score = theirs.classifier(torch.cat(places))[:, label].mean()
    (gradient,) = torch.autograd.grad(score, kept["maps"])
    maps_Chw, gradient_Chw = kept["maps"][0].detach().double().numpy(), gradient[0].double().numpy()
    heat_hw = sum(
        gradient_hw.mean() * map_hw for gradient_hw, map_hw in zip(gradient_Chw, maps_Chw, strict=True)
    )
    return np.maximum(heat_hw, 0)


def test_it_is_the_weighted_sum_of_the_last_maps(vgg11):
    theirs, file = vgg11
    net = open_net(str(file))
    image = rescaled_input(picture(300, 330), 256, net.mean_rgb)
    std = 255 * torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    seen = 0
    for label in range(net.architecture.classes):
        found_hw, expected_hw = grad_cam(net.module(), image, label), by_hand(theirs, image / std, label)
        assert found_hw.shape == expected_hw.shape == (16, 17)
        if expected_hw.max() > 0:
            seen += 1
            np.testing.assert_allclose(found_hw, expected_hw / expected_hw.max(), atol=2e-3)
            assert 0 < (found_hw > 0.5).mean() < 1
        else:
            assert not found_hw.any()
    assert seen > 1
