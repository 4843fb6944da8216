"""Studies as data: their steps, the parts of them, what they cost."""

import pytest

from cli.errors import UserError
from vgg.reporting.paper_conditions import _starts
from vgg.reporting.paper_results import MULTI_SCALE, ONE_SCALE, TABLES
from vgg.studies.cost import remaining_seconds
from vgg.studies.graph import Evaluation, Fusion, Training, nodes_of
from vgg.studies.registry import STUDIES


@pytest.mark.parametrize("study", STUDIES.values(), ids=str)
def test_every_step_is_listed_after_those_that_it_needs(study):
    done: set[str] = set()
    for node in nodes_of(study, 2):
        assert set(node.needs) <= done
        done.add(node.name)
    fused = {name for step in study.steps if isinstance(step, Fusion) for name in step.evaluations}
    assert fused <= {step.name for step in study.steps if isinstance(step, Evaluation)}


def test_the_papers_study_fills_every_row_of_its_tables():
    """Each net of the paper's tables 3 to 7 by each protocol and scales that a row asks for."""
    study = STUDIES["paper"]
    trainings = {step.name: step for step in study.steps if isinstance(step, Training)}

    def net(name: str) -> str:
        recipe = trainings[name].recipe
        scales = sorted({recipe.input.min_scale, recipe.input.max_scale})
        return f"{recipe.model.configuration}@{'-'.join(map(str, scales))}"

    made: set[tuple[tuple[str, ...], str, tuple[int, ...]]] = set()
    for step in study.steps:
        if isinstance(step, Evaluation):
            trained_at = net(step.training).partition("@")[2]
            for protocol in step.protocols:
                made |= {
                    ((net(step.training),), protocol, scales[trained_at]) for scales in (ONE_SCALE, MULTI_SCALE)
                }
        elif isinstance(step, Fusion):
            names = [name.removeprefix("test-") for name in step.evaluations]
            nets = tuple(sorted(net(name) for name in names))
            scales = tuple(sorted({q for each in nets for q in MULTI_SCALE[each.partition("@")[2]]}))
            made.add((nets, step.protocol, scales))
    keys = [row.key for table in TABLES for row in table.rows if row.key is not None]
    assert [key for key in keys if (key.nets, key.protocol, key.scales) not in made] == []


def test_the_papers_trainings_start_from_what_its_tables_accept():
    trainings = {step.name: step for step in STUDIES["paper"].steps if isinstance(step, Training)}
    for step in trainings.values():
        accepted = _starts(step.recipe_name)
        start = trainings[step.start_from].recipe_name if step.start_from else None
        assert start in accepted if accepted else start is None


def test_only_keeps_what_a_step_needs():
    names = [node.name for node in nodes_of(STUDIES["digits"], 2, ["test-d-jitter.1"])]
    assert names == ["d.1", "d-jitter.1", "test-d-jitter.1"]
    assert {node.seed for node in nodes_of(STUDIES["digits"], 3, ["a"])} == {0, 1, 2}
    with pytest.raises(UserError, match=r"--only test-z.* is no step of study digits; its steps: a, a-lrn"):
        nodes_of(STUDIES["digits"], 1, ["test-z*"])


def test_the_time_left_is_that_of_the_longest_chain_or_of_all_work():
    nodes = nodes_of(STUDIES["digits"], 1, ["test-d-jitter", "test-a"])
    seconds = {"a.0": 10.0, "test-a.0": 5.0, "d.0": 30.0, "d-jitter.0": 20.0, "test-d-jitter.0": 5.0}
    assert remaining_seconds(nodes, seconds, 1) == 70
    assert remaining_seconds(nodes, seconds, 2) == 55  # d, d-jitter, test-d-jitter one after the other
    assert remaining_seconds(nodes, {"test-a.0": 5.0}, 2) == 5
