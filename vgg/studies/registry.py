"""All studies by name."""

from vgg.studies.digits import digits_study
from vgg.studies.graph import Study
from vgg.studies.paper import paper_study
from vgg.studies.tiny_imagenet import reduced_study, tiny_imagenet_study

STUDIES: dict[str, Study] = {
    study.name: study for study in (digits_study(), tiny_imagenet_study(), reduced_study(), paper_study())
}
