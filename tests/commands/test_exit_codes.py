"""A user's mistake ends a command with exit code 2, a failed job with 1; a bug keeps its traceback."""

import sys

import pytest

from cli.errors import Failure, UserError
from vgg import ensemble, evaluate, predict, report

COMMANDS = [
    (evaluate, "open_net", ["run", "--data", "DATA"]),
    (ensemble, "read_posteriors", ["one", "two", "--out", "OUT"]),
    (predict, "open_net", ["image.jpg", "--net", "run"]),
    (report, "tracked_runs", ["--track", "http://127.0.0.1:9"]),
]
"""Command, a function that it calls, arguments."""


@pytest.fixture(params=COMMANDS, ids=[command.__name__ for command, _, _ in COMMANDS])
def run(request, monkeypatch, digits):
    """Call a command, one of whose functions raises an error."""
    command, function, arguments = request.param

    def call(error):
        def fail(*_):
            raise error

        monkeypatch.setattr(command, function, fail)
        filled = [str(digits) if argument == "DATA" else argument for argument in arguments]
        monkeypatch.setattr(sys, "argv", [command.__name__, *filled])
        command.main()

    return call


@pytest.mark.parametrize(("error", "code"), [(UserError("too small"), 2), (Failure("too late"), 1)])
def test_an_expected_error_is_one_line(run, capsys, error, code):
    with pytest.raises(SystemExit) as ended:
        run(error)
    assert ended.value.code == code
    assert capsys.readouterr().err.strip() == f"error: {error}"


def test_a_bug_is_no_mistake_of_the_user(run):
    """Its ValueError leaves the command as it is: Python prints the traceback and ends with 1."""
    with pytest.raises(ValueError, match="operands could not be broadcast") as raised:
        run(ValueError("operands could not be broadcast"))
    assert type(raised.value) is ValueError
