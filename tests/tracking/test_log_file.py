"""log.txt: a training's log in its folder, of every attempt, whatever happens to the storage meanwhile."""

import re
from dataclasses import replace

import pytest
import torch

from cluster.layout import Worker
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.storage.folder import Folder
from tests.pipelines.test_pack import encoded, picture
from tests.pipelines.test_sources import lay
from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.tracking.log_file import LogFile
from vgg.tracking.run_log import RunLog
from vgg.training.loop import train

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)


def texts(folder):
    """The lines without their times."""
    lines = (folder / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)
    return [line[20:] for line in lines]


def run(digits, folder, steps):
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=steps))
    return train(ALONE, job(digits, folder, recipe), lambda context: [RunLog(context)])


def test_what_is_printed_is_kept_of_every_attempt(digits, tmp_path, capsys):
    assert run(digits, tmp_path, 2).result
    first = capsys.readouterr().out.splitlines()
    assert texts(tmp_path) == [*first, "finished"]
    assert run(digits, tmp_path, 3).result
    second = capsys.readouterr().out.splitlines()
    assert f"resumed from step 2 of {tmp_path}" in second
    assert texts(tmp_path) == [*first, "finished", *second, "finished"]


@pytest.mark.parametrize(("share", "warned"), [(0.01, True), (0.1, False)])
def test_few_validation_images_are_warned_of(tmp_path, capsys, share, warned):
    image = encoded(picture(0), "PNG")
    source = lay(tmp_path / "source", {f"{label}/{i}.png": image for label in "ab" for i in range(100)})
    pack(PackOptions(str(source), tmp_path / "data", workers=1, val_share=share))
    capsys.readouterr()
    run(tmp_path / "data", tmp_path / "run", 1)
    told = capsys.readouterr().out
    assert ("warning: of 2 validation images each is 50% of the accuracy" in told) == warned


def test_a_training_that_is_stopped_by_a_problem_says_so_there(digits, tmp_path):
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=9), optim=replace(RECIPE.optim, lr=1e8))
    outcome = train(ALONE, job(digits, tmp_path, recipe), lambda context: [RunLog(context)])
    assert texts(tmp_path)[-1] == outcome.problem
    assert "the loss became" in str(outcome.problem)


def test_lines_stand_there_before_the_end(tmp_path):
    log = LogFile(Folder(str(tmp_path)))
    for number in range(100):
        log.add(f"line {number}")
    log._thread.submit(lambda: None).result()  # the thread has done what it was asked
    assert texts(tmp_path) == [f"line {number}" for number in range(100)]
    log.close()


def test_a_folder_that_cannot_be_written_is_told_once_and_tried_again(tmp_path, capsys):
    (tmp_path / "run").write_text("a file in place of the folder")
    log = LogFile(Folder(str(tmp_path / "run")))
    for line in ("first", "second"):
        log.add(line)
        log._thread.submit(lambda: None).result()
    (tmp_path / "run").unlink()
    log.add("third")
    log.close()
    assert texts(tmp_path / "run") == ["first", "second", "third"]
    assert capsys.readouterr().err.count("log.txt is not kept") == 1
