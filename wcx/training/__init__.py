"""Fine-tuning: an ImageDataset, a network and a recipe in, a checkpoint with its history and curve out."""

from wcx.training.task import finetune, finished, plan
from wcx.training.loop import evaluate, fit
from wcx.training.recipe import AUGMENTATIONS, Recipe

__all__ = ["AUGMENTATIONS", "Recipe", "evaluate", "finetune", "finished", "fit", "plan"]
