"""Commands of the manifests and of docs/kubernetes.md, read by the programs that they call."""

import re
import shlex
import shutil
import subprocess
from functools import cache

import pytest
import tyro

from cluster.worker_range import with_range
from pipelines.pack import PackOptions
from tests.conftest import ROOT
from tests.k8s.conftest import needs_kustomize
from tests.k8s.manifests import TARGETS, containers, pods, rendered
from tests.k8s.programs import words
from vgg.ensemble import EnsembleOptions
from vgg.evaluate import EvaluateOptions
from vgg.recipes.registry import RECIPES
from vgg.report import ReportOptions
from vgg.study import StudyOptions
from vgg.train import TrainOptions

DOCUMENT = (ROOT / "docs/kubernetes.md").read_text()
OPTIONS = {
    "pipelines.pack": PackOptions,
    "vgg.ensemble": EnsembleOptions,
    "vgg.evaluate": EvaluateOptions,
    "vgg.report": ReportOptions,
    "vgg.study": StudyOptions,
}
COMMAND = re.compile(r"python -m ((?:vgg|pipelines)\.\w+)([^;|&`#\n]*)")


def parse(module: str, arguments: list[str]) -> None:
    """SystemExit where the command refuses its arguments."""
    if module == "vgg.train":
        trainings = {name: (text, TrainOptions(name, recipe)) for name, (text, recipe) in RECIPES.items()}
        tyro.extras.overridable_config_cli(trainings, args=with_range(arguments))
    else:
        tyro.cli(OPTIONS[module], args=arguments)


@needs_kustomize
@pytest.mark.parametrize("target", TARGETS)
def test_programs_take_their_arguments(target):
    texts = [str(o["spec"]["entrypoint"]) for o in rendered(target) if o["kind"] == "RayJob"]
    for _, pod in pods(rendered(target)):
        texts += [" ".join(words(container)) for container in containers(pod)]
    found = [match.groups() for text in texts for match in COMMAND.finditer(text)]
    assert found or target in ("gpu", "paper")
    for module, arguments in found:
        parse(module, shlex.split(arguments))


def test_documents_programs_take_their_arguments():
    found = COMMAND.findall(DOCUMENT.replace("\\\n", " "))
    assert found
    for module, arguments in found:
        parse(module, shlex.split(arguments))


def test_a_flag_that_is_not_there_is_refused():
    parse("vgg.evaluate", ["s3://runs/digits", "--data=/data/digits"])
    with pytest.raises(SystemExit):
        parse("vgg.evaluate", ["s3://runs/digits", "--data=/data/digits", "--protocol", "dense"])


@cache
def kubectl_help(*verb: str) -> str:
    """What kubectl says of a command, and of the flags that all have."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    texts = [
        subprocess.run([kubectl, *call], capture_output=True, text=True, check=True).stdout
        for call in ((*verb, "--help"), ("options",))
    ]
    return "\n".join(texts)


def kubectl_calls(text: str) -> list[list[str]]:
    """Words of every kubectl command of a text, without what follows a pipe or a comment."""
    joined = text.replace("\\|", "|").replace("\\\n", " ")
    found = re.findall(r"kubectl ((?:'[^']*'|\$\([^()]*\)|[^`|#&;\n()'])+)", joined)
    return [re.findall(r"(?:'[^']*'|\$\([^()]*\)|\S)+", call) for call in found]


def test_kubectl_takes_its_flags():
    seen = 0
    for call in kubectl_calls(DOCUMENT):
        given = call[: call.index("--")] if "--" in call else call
        flags = [word.partition("=")[0] for word in given if re.match(r"-{1,2}[a-z]", word)]
        plain = given[2:] if given[:1] == ["-n"] else given
        if not plain or not re.fullmatch(r"[a-z]+", plain[0]):
            continue  # prose
        verb = plain[:2] if plain[0] in ("rollout", "auth") else plain[:1]
        said = kubectl_help(*verb)
        for flag in flags:
            seen += 1
            assert re.search(rf"(?<![\w-]){re.escape(flag)}[=,: ]", said), (call, flag)
    assert seen > 30
