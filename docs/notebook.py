# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Why this class, and not that one?
#
# Drawn birds and a small network that is trained here: nothing is downloaded.
#
# There is no link to Colab here: it would open a file at a public address, and this repository has none yet. Upload
# `build/notebook.ipynb` there, with a first cell that `!pip install`s a checkout.
#
# The other notebook format: `jupytext --to ipynb docs/notebook.py`.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import wcx

RESULTS = Path(tempfile.mkdtemp())


def run(*arguments: str) -> None:
    """Run a command of wcx, with all its files in one folder."""
    places = [f"paths.results_dir={RESULTS}", f"paths.checkpoints_dir={RESULTS / 'checkpoints'}"]
    subprocess.run([sys.executable, "-m", "wcx.cli", *arguments, *places], check=True)


# %% [markdown]
# ## A network that tells drawn birds apart (one or two minutes)

# %%
run("finetune", "dataset=parts", "model=small_cnn", "recipe=demo")

# %%
from wcx import datasets, models

[checkpoint] = (RESULTS / "checkpoints" / "parts").glob("*.safetensors")
network = models.load("small_cnn", checkpoint=checkpoint)
birds = datasets.load("parts", ".", "test")
names = birds.class_names

images = torch.stack([birds[i][0] for i in range(60)])
with torch.no_grad():
    probabilities = network.model(images).softmax(1)
torn = int(probabilities.topk(2).values[:, 1].argmax())  # the image whose second class is likeliest
image = images[torn : torn + 1]
first, second = probabilities[torn].topk(2).indices.tolist()
print(f"{names[first]}: {probabilities[torn, first]:.2f}, {names[second]}: {probabilities[torn, second]:.2f}")

# %% [markdown]
# ## Explain, and compare contrasts
#
# Several contrasts at once cost one forward pass. Red speaks for the class, blue against it, white is zero.


# %%
def show(maps: dict[str, torch.Tensor]) -> None:
    """Draw the image and signed maps on one scale."""
    _, axes = plt.subplots(1, len(maps) + 1, figsize=(3 * len(maps) + 3, 3.2))
    axes[0].imshow(image[0].permute(1, 2, 0))
    limit = max(float(each.abs().max()) for each in maps.values())
    for axis, (title, each) in zip(axes[1:], maps.items(), strict=True):
        axis.imshow(each, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.axis("off")
    plt.show()


contrasts = ["original", "mean", "max", "weighted"]
maps = wcx.upsample(wcx.explain(network.model, image, first, method="gradcam", contrast=contrasts), image.shape[-2:])
show({f"{contrast}\n{names[first]}": each[0] for contrast, each in zip(contrasts, maps, strict=True)})

# %% [markdown]
# ## Why A, and not B?
#
# Name the foil. With one foil, mean, max and weighted are the same vector.

# %%
answers = {}
for target, foil in ((first, second), (second, first)):
    answer = wcx.explain(network.model, image, target, method="linear_approximation", contrast="weighted", foils=[foil])
    answers[f"{names[target]},\nnot {names[foil]}"] = wcx.upsample(answer, image.shape[-2:])[0]
show(answers)
torch.testing.assert_close(
    *(sign * each for sign, each in zip((1, -1), answers.values(), strict=True))
)  # each other's negative

# %% [markdown]
# ## One cell of Table 1

# %%
run(
    "table1", "datasets=[parts]", "models=[small_cnn]", "methods=[gradcam]", "contrasts=[original,weighted]", "limit=60"
)

# %% [markdown]
# ## Your own network: any module that maps images to logits

# %%
own = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(8, 4),
)
explained = wcx.Explainer(own, method="gradcam")(image)
print("layer:", explained.layer)
print(explained.explain(wcx.cotangent(explained.logits, 0, contrast="weighted", foils=[2])).shape)
