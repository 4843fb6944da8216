"""What is said of a training whose numbers went wrong."""

import math
from collections.abc import Sequence

from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards
from vgg.training.plan import TrainingPlan

NAMED_IMAGES = 4
STUCK_STEPS = 300
"""Updates after which a loss that stays where guessing is, is called that: a small net leaves it after some 160
(docs/decisions/patience.md)."""
STUCK_SHARE = 0.01


def divergence(what: str, step: int, plan: TrainingPlan, train_set: Shards) -> str:
    """What went wrong at an update, on which images."""
    return f"{what} at step {step}, on {_images(step, plan, train_set)}"


def stuck(losses: Sequence[float], classes: int) -> str | None:
    """A warning where the last `STUCK_STEPS` losses are those of a net that tells no class from another."""
    guessing, last = math.log(classes), losses[-STUCK_STEPS:]
    if classes < 2 or len(last) < STUCK_STEPS:
        return None
    halves = last[: STUCK_STEPS // 2], last[STUCK_STEPS // 2 :]
    if any(abs(sum(half) / len(half) - guessing) > STUCK_SHARE * guessing for half in halves):
        return None
    return (
        f"the loss has stayed at ln {classes} = {guessing:.3f} for {STUCK_STEPS} updates, that of a net that "
        "guesses. Deep VGG nets begin so. If it lasts: --optim.name adam, a lower or higher --optim.lr, "
        "--model.initialisation glorot or torchvision, or start from a shallower net "
        "(--model.initialisation shallower --model.start-from NET)"
    )


def _images(step: int, plan: TrainingPlan, train_set: Shards) -> str:
    batch = plan.recipe.train.batch
    _, images_B = training_order(plan.seed, (step - 1) * batch, batch, len(train_set))
    names = ", ".join(train_set.key(int(i)) for i in images_B[:NAMED_IMAGES])
    return f"images {names} and {batch - NAMED_IMAGES} others" if batch > NAMED_IMAGES else f"images {names}"
