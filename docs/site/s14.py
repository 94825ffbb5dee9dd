"""Train the last two blocks of the ViT-S/14 and a head on the drawn birds, for `wcx twins` on a transformer that knows them.

python docs/site/s14.py ../shared/weights checkpoints    # some 20 minutes on one core; goes on where it was
wcx twins models=[custom] model.factory=wcx.models.vit_s14:vit_s14 model.weights=checkpoints/parts/vit_s14.safetensors
    model.classes=checkpoints/parts/vit_s14.txt model.layer=encoder.layers.encoder_layer_11.ln_1 dataset.transform.size=224
    methods=[gradcam,linear_approximation,lrp] contrasts=[original,weighted] limit=96 chance=200
python docs/site/twins.py --methods results twins_s14 "wcx twins models=[custom] ..."
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from wcx import datasets, models, training
from wcx.images import Normalized
from wcx.models.state_dicts import fill, read_weights, weights_hash
from wcx.models.vit_s14 import vit_s14

sys.path.insert(0, str(Path(__file__).parent))
from twins import put

BACKBONE = "vit_s14_saliency_backbone.pth"
TRANSFORM = {"kind": "squash", "size": 224}
RECIPE = {
    "name": "tail", "train": "tail", "cut": "encoder.layers.encoder_layer_10", "optimizer": "adamw", "lr": 3e-4,
    "momentum": 0.9, "weight_decay": 0.05, "schedule": "cosine", "epochs": 3, "batch_size": 64, "label_smoothing": 0.0,
    "freeze_batchnorm": True, "select": "last", "mirror": False, "variants": 0, "augment": {}, "kept": "float16",
}  # fmt: skip


def main() -> None:
    """Train, and put the accuracy into figures.csv."""
    weights, folder = Path(sys.argv[1]), Path(sys.argv[2]) / "parts"
    train, test = (
        datasets.load("parts", folder, split, families="factorial", transform=TRANSFORM) for split in ("train", "test")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the head
        net = vit_s14(num_classes=len(train.class_names)).eval()
    fill(net, read_weights(weights / BACKBONE), BACKBONE, fine_tuning=True)
    start = models.LoadedModel(
        net=net,
        model=Normalized(net, models.IMAGENET_MEAN, models.IMAGENET_STD).eval(),
        name="vit_s14",
        layer=None,
        class_names=None,
        weights=f"file: {BACKBONE}",
        stand_in=True,
        weights_hash=weights_hash(net.state_dict()),
        transform=dict(TRANSFORM),
    )
    path, recipe = folder / "vit_s14.safetensors", training.Recipe.of(RECIPE)
    if not training.finished(path, recipe):
        training.finetune(start, train, test, recipe, path)
    (folder / "vit_s14.txt").write_text("\n".join(train.class_names) + "\n", encoding="utf-8")
    accuracy = {"s14_accuracy": f"{models.read_meta(path)['accuracy']:.3f}"}
    put(
        accuracy,
        None,
        len(test),
        "parts, families=factorial, seed 0",
        "python docs/site/s14.py ../shared/weights checkpoints",
    )


if __name__ == "__main__":
    main()
