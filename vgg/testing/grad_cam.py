"""Grad-CAM: where in an image a net sees a class (Selvaraju et al. 2017, arXiv:1610.02391).

Shapes: C channels, H and W sides of the rescaled image in pixels, h and w of the last convolution's map.
"""

import numpy as np
import torch
import torch.nn.functional as F

from vgg.net.module import VGG


def grad_cam(module: VGG, image_CHW: torch.Tensor, label: int) -> np.ndarray:
    """How much each place of the last convolution speaks for a class, float32 [h, w] from 0 to 1.

    The map's channels, weighted by the mean gradient of the class's score (averaged over the places of a whole
    image, as by the dense protocol) and summed; what speaks against the class is cut off (equations 1 and 2).
    All zeros where nothing speaks for it. `image_CHW`: the net's input, of its side or larger.
    """
    *_, last, pool = module.convolutional
    with torch.no_grad():
        maps_1Chw = module.activations(image_CHW[None], [last.name])[last.name]
    maps_1Chw.requires_grad_()
    scores_1Khw = module.classify(F.max_pool2d(maps_1Chw, pool.kernel))
    (gradient_1Chw,) = torch.autograd.grad(scores_1Khw[0, label].mean(), maps_1Chw)
    weights_1C11 = gradient_1Chw.mean((2, 3), keepdim=True)
    heat_hw = (weights_1C11 * maps_1Chw.detach()).sum(1)[0].relu()
    return (heat_hw / heat_hw.max().clamp(min=torch.finfo(heat_hw.dtype).tiny)).numpy()
