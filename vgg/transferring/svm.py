"""Linear support vector machines on features, one against the rest for each class.

Shapes: N images, D numbers of a descriptor, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vgg.transferring.targets import held_out

ITERATIONS = 10_000


@dataclass(frozen=True)
class LinearMachines:
    """A machine for each class."""

    weights_DK: np.ndarray
    """float64."""
    bias_K: np.ndarray
    unconverged: int
    """Machines whose solver stopped after `ITERATIONS`."""

    def scores(self, features_ND: np.ndarray) -> np.ndarray:
        """[N, K] float64: the higher, the likelier."""
        return features_ND.astype(np.float64) @ self.weights_DK + self.bias_K


def fitted(features_ND: np.ndarray, targets_NK: np.ndarray, cost: float, seed: int) -> LinearMachines:
    """Machines of cost C. Images whose target is 0 are left out of a class; a class with no image, or with all,
    scores every image alike."""
    from sklearn.exceptions import ConvergenceWarning  # takes 1.5 seconds, and most commands fit nothing
    from sklearn.svm import LinearSVC

    features_ND = np.ascontiguousarray(features_ND, np.float64)
    classes = targets_NK.shape[1]
    weights_DK, bias_K, unconverged = np.zeros((features_ND.shape[1], classes)), np.full(classes, -1.0), 0
    for k in range(classes):
        counted_N = targets_NK[:, k] != 0
        positive_N = targets_NK[counted_N, k] == 1
        if positive_N.all() or not positive_N.any():
            continue
        machine = LinearSVC(C=cost, dual="auto", random_state=seed, max_iter=ITERATIONS)
        own_ND = features_ND if counted_N.all() else features_ND[counted_N]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            machine.fit(own_ND, positive_N)
        unconverged += any(issubclass(each.category, ConvergenceWarning) for each in caught)
        weights_DK[:, k], bias_K[k] = machine.coef_[0], machine.intercept_[0]
    return LinearMachines(weights_DK, bias_K, unconverged)


@dataclass(frozen=True)
class Chosen:
    """The machines of the cost that did best on a share of the training images, fitted again to all of them."""

    machines: LinearMachines
    cost: float
    tried: tuple[tuple[float, float], ...]
    """(cost, measure on the share)."""


def chosen(
    features_ND: np.ndarray,
    targets_NK: np.ndarray,
    costs: Sequence[float],
    share: float,
    seed: int,
    measure: Callable[[np.ndarray, np.ndarray], float],
) -> Chosen:
    """Choose the cost by `measure(scores, targets)`, of equal ones the smallest."""
    split = held_out(targets_NK, share, seed)
    tried = []
    for cost in sorted(costs):
        machines = fitted(features_ND[split.train_N], targets_NK[split.train_N], cost, seed)
        tried.append((cost, measure(machines.scores(features_ND[split.test_N]), targets_NK[split.test_N])))
    best = max(tried, key=lambda each: each[1])[0]
    return Chosen(fitted(features_ND, targets_NK, best, seed), best, tuple(tried))
