"""A study as data: trainings with their starting weights, evaluations of what they give, fusions of these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cli.errors import UserError
from vgg.recipes.schema import Recipe
from vgg.testing.protocols import Protocol


@dataclass(frozen=True)
class Training:
    """A recipe, perhaps from the weights of another training of the study."""

    name: str
    recipe_name: str
    """The registered recipe that `recipe` is, or differs from: every difference is tracked."""
    recipe: Recipe
    start_from: str | None = None
    """Name of the training whose weights it starts from."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps that come before it."""
        return () if self.start_from is None else (self.start_from,)


@dataclass(frozen=True)
class Evaluation:
    """A training's net by every one of the protocols at every one of the scales."""

    name: str
    training: str
    protocols: tuple[Protocol, ...]
    scales: tuple[str, ...] = ("single", "several")
    """As `--scales` of python -m vgg.evaluate."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps that come before it."""
        return (self.training,)


@dataclass(frozen=True)
class Fusion:
    """The mean of the class probabilities of several evaluations, each by this protocol at these scales."""

    name: str
    evaluations: tuple[str, ...]
    protocol: Protocol
    scales: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps that come before it."""
        return self.evaluations


Step = Training | Evaluation | Fusion


@dataclass(frozen=True)
class Study:
    """Steps, each listed after those that it needs; every step is made once for each seed."""

    name: str
    title: str
    data: str
    """What data set it is of, for messages."""
    steps: tuple[Step, ...]
    needs_holdout: bool = False
    """Whether its data must have a split that trainings validate on, so that `val` is tested once and nothing
    is chosen by it."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for step in self.steps:
            assert step.name not in seen, f"two steps are called {step.name}"
            assert set(step.needs) <= seen, f"{step.name} is listed before what it needs"
            seen.add(step.name)


@dataclass(frozen=True)
class Node:
    """A step for one seed."""

    step: Step
    seed: int

    @property
    def name(self) -> str:
        """STEP.SEED."""
        return f"{self.step.name}.{self.seed}"

    @property
    def kind(self) -> str:
        """training, evaluation or fusion."""
        return type(self.step).__name__.lower()

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the nodes that come before it: those of the same seed."""
        return tuple(f"{name}.{self.seed}" for name in self.step.needs)


def nodes_of(study: Study, seeds: int, only: Sequence[str] = ()) -> list[Node]:
    """All nodes for seeds 0 to `seeds` - 1, each after those that it needs.

    `only`: names of steps or nodes, with * and ?; what these need is kept too. UserError for one that
    fits none.
    """
    nodes = [Node(step, seed) for seed in range(seeds) for step in study.steps]
    if not only:
        return nodes
    by_name = {node.name: node for node in nodes}
    kept: set[str] = set()
    for pattern in only:
        found = [n for n in nodes if fnmatchcase(n.name, pattern) or fnmatchcase(n.step.name, pattern)]
        if not found:
            known = ", ".join(step.name for step in study.steps)
            raise UserError(f"--only {pattern} is no step of study {study.name}; its steps: {known}")
        for node in found:
            kept |= {node.name, *_ancestors(node, by_name)}
    return [node for node in nodes if node.name in kept]


def _ancestors(node: Node, by_name: dict[str, Node]) -> Iterator[str]:
    for name in node.needs:
        yield name
        yield from _ancestors(by_name[name], by_name)
