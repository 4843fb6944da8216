"""A training on a range of workers loses a node and takes it back: 2, 1, 2; its weights are the same."""

import pytest

from tests.conftest import needs_namespaces
from tests.faults import elastic


@pytest.mark.faults
@needs_namespaces
def test_a_node_is_lost_and_comes_back(digits, tmp_path):
    with elastic.Machines() as machines:
        found = elastic.try_once(machines, digits, tmp_path, "node", 1.0)
    assert found.same_weights
    assert found.workers_then == 1
    assert found.steps_lost_growing == 0
