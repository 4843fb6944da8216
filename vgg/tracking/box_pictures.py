"""The pictures of a box net's training: a classifier's, with boxes in place of predictions and confusion."""

from vgg.boxes.geometry import overlaps, to_edges
from vgg.boxes.regression import boxes_of_classes
from vgg.pictures.boxes import box_montage
from vgg.tracking.training_pictures import Drawing, TrainingPictures
from vgg.training.events import Validated


class BoxPictures(TrainingPictures):
    """Predicted against true boxes on the centre crops of validation images."""

    answers_path = "pictures/boxes.png"

    def _answers_of(self, event: Validated) -> list[Drawing]:
        shown = self._at_random
        boxes, true_B4 = self._plan.architecture.boxes, shown.boxes_B4
        assert boxes is not None
        assert true_B4 is not None
        found_B4 = to_edges(boxes_of_classes(self._outputs(shown), shown.labels_B.cpu(), boxes))
        iou_B = overlaps(found_B4, true_B4.cpu()).tolist()
        pixels_BHWC = shown.images_BHWC.cpu().numpy()
        names = [self._class_names[label] for label in shown.labels_B.tolist()]
        found, true = found_B4.numpy(), [edges_4[None] for edges_4 in true_B4.cpu().numpy()]
        return [(self.answers_path, box_montage, (list(pixels_BHWC), names, found, true, iou_B))]
