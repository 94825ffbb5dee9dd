"""Models: any torchvision classifier, small_cnn, or one's own network, with its weights, ready for [0, 1] pixels."""

from wcx.images import IMAGENET_MEAN, IMAGENET_STD, Normalized, logits_of
from wcx.models.checkpoints import checkpoint_path, read_checkpoint, read_meta, save_checkpoint
from wcx.models.class_names import distinct, label_map
from wcx.models.load import IMAGENET_TRANSFORM, LoadedModel, build, finetune_command, load, names, own_transform
from wcx.models.state_dicts import head_name, weights_hash

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGENET_TRANSFORM",
    "LoadedModel",
    "Normalized",
    "build",
    "checkpoint_path",
    "distinct",
    "finetune_command",
    "head_name",
    "label_map",
    "load",
    "logits_of",
    "names",
    "own_transform",
    "read_checkpoint",
    "read_meta",
    "save_checkpoint",
    "weights_hash",
]
