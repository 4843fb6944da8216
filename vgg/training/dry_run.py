"""What a training would be and cost, printed before anything is started."""

from dataclasses import asdict

from rich.table import Table

from cli.console import console
from cli.errors import UserError
from cluster.layout import Layout
from vgg.net.architecture import Architecture, parameter_count, training_flops
from vgg.recipes.difference import difference, flatten
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.training.cost import largest_micro_batch, memory_bytes
from vgg.training.plan import TrainingPlan


def print_plan(plan: TrainingPlan, layout: Layout, memory_gib: float | None) -> None:
    """Print the settings, what they override, the length of the training, its FLOP and its memory.

    With `memory_gib` also how many images of a pass fit into that.
    """
    _print(plan.recipe_name, plan.recipe, plan.architecture, layout, plan, memory_gib)


def print_recipe(name: str, recipe: Recipe, layout: Layout, memory_gib: float | None) -> None:
    """The same without data, as far as the recipe decides it. UserError where it leaves the classes open."""
    if recipe.model.classes is None:
        raise UserError("the recipe takes its number of classes from the data: give --data")
    _print(name, recipe, recipe.architecture(recipe.model.classes), layout, None, memory_gib)


def _print(
    name: str,
    recipe: Recipe,
    architecture: Architecture,
    layout: Layout,
    plan: TrainingPlan | None,
    memory_gib: float | None,
) -> None:
    out = console()
    out.print(_settings(name, recipe, layout))
    step_flop = training_flops(architecture) * recipe.train.batch
    out.print(f"parameters     {parameter_count(architecture):,}")
    out.print(f"a step         {step_flop:.3e} FLOP")
    if plan is not None:
        out.print(
            f"the training   {plan.total_steps:,} steps on {plan.train_images:,} images, "
            f"{plan.total_steps * step_flop:.3e} FLOP"
        )
        for ancestor in plan.lineage:
            changes = ", overridden" if ancestor.difference else ""
            out.print(f"starts from    {ancestor.recipe}{changes}, weights {ancestor.weights_sha256[:12]}")
        for kind, names in (("fresh", plan.fresh), ("frozen", plan.frozen)):
            if names:
                out.print(f"{kind:<14} {', '.join(names)}")
    for kind, size in memory_bytes(recipe, architecture, layout).items():
        out.print(f"{kind:<14} {size / 2**20:,.0f} MiB a worker")
    if memory_gib is not None:
        rows = largest_micro_batch(recipe, architecture, layout, memory_gib * 2**30)
        fits = f"--layout.micro-batch {rows} is the largest" if rows else "not even one image fits"
        out.print(f"in {memory_gib:g} GiB a worker, without the libraries' workspaces, {fits}")


def _settings(name: str, recipe: Recipe, layout: Layout) -> Table:
    changes = difference(recipe, RECIPES[name][1])
    table = Table("setting", "value", title=f"{name}{' (overridden)' if changes else ''}")
    for setting, value in flatten(recipe).items():
        note = f"  (recipe: {changes[setting][0]})" if setting in changes else ""
        table.add_row(setting, f"{value}{note}")
    for setting, value in asdict(layout).items():
        table.add_row(f"layout.{setting}", str(value))
    return table
