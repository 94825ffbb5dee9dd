"""Oxford Flowers-102 (Nilsback and Zisserman, Automated flower classification over a large number of classes, 2008).

Layout: `<root>/flowers-102/{jpg/, imagelabels.mat, setid.mat}`; train is the official train and validation sets
together. Page: https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.download import fetch, install
from wcx.datasets.listing import Entry, assemble, downloads, read_mat, require
from wcx.errors import DataError

FOLDER = "flowers-102"
URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
MD5 = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
SIZE = 344_862_509  # bytes of 102flowers.tgz
OFFICIAL = {"classes": 102, "train": 2040, "test": 6149}
SETS = {"trnid": "train", "valid": "train", "tstid": "test"}
# The .mat files have numbers only. These names, from the dataset's page, are spelled as in the widespread
# cat_to_name.json; they stand here so that a checkpoint's classes never depend on a file that is not the dataset's own.
CLASS_NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily,
rose, thorn apple, morning glory, passion flower, lotus lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss,
foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
""".replace("\n", " ")


def download(root: Path) -> None:
    """Download (345 MB) and unpack what is not there yet."""
    install(f"{URL}/102flowers.tgz", root, f"{FOLDER}/jpg", md5=MD5["102flowers.tgz"], size=SIZE)
    for name in ("imagelabels.mat", "setid.mat"):
        fetch(f"{URL}/{name}", root / FOLDER / name, md5=MD5[name])


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    base = root / FOLDER
    for name in ("setid.mat", "imagelabels.mat", "jpg"):
        require("flowers102", base / name, downloads("flowers102", root / FOLDER))
    sets, labels = read_mat(base / "setid.mat"), read_mat(base / "imagelabels.mat")
    try:
        entries = []
        for key, of in SETS.items():
            numbers = sets[key].tolist()
            entries += [Entry(f"{FOLDER}/jpg/image_{i:05d}.jpg", int(labels["labels"][i - 1]) - 1, of) for i in numbers]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"dataset flowers102: the .mat files in {base} are not the dataset's: {error!r}.") from error
    names = [name.strip() for name in CLASS_NAMES.split(",")]
    return assemble("flowers102", root, split, entries, names, official=official, allow_partial=allow_partial)
