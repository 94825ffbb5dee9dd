"""Fine-tuning: an ImageDataset, a network and a recipe in, a checkpoint with its history and curve out."""

from wcx.training.accuracies import accuracies, write_accuracies
from wcx.training.confusion import kept_confusion, soft_confusion
from wcx.training.loop import evaluate, fit
from wcx.training.plan import plan
from wcx.training.recipe import AUGMENTATIONS, Recipe
from wcx.training.task import finetune, finished

__all__ = [
    "AUGMENTATIONS",
    "Recipe",
    "accuracies",
    "evaluate",
    "finetune",
    "finished",
    "fit",
    "kept_confusion",
    "plan",
    "soft_confusion",
    "write_accuracies",
]
