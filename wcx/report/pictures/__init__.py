"""Pictures: one model (`wcx.experiments.pictures.Picture`), drawn by one module (`draw`) on one sheet (`sheet`).

    plate      pictures with their scale, and the tiles that every layout is made of
    layouts    Figs. 1, 4 and 5, methods x contrasts, selected images (the demo)
    photo      one's own photograph: layout, files
    sentences  its question and answer in words
    gallery    a plate's files
    selected   the figure beside a cell's records, and single heatmaps for the report's switch
    fonts      letters of any script

Files, and what their JSON holds:

    <results>/gallery/<dataset>-<model>-<figure>.{png,pdf,svg,json}
        figure, title, dataset, dataset_label, model, weights, subset, rule, command, caption (sentences), foils, baseline, scale,
        stand_in, settings, transform, manifest, files; images: id, index, truth, classes and probabilities (the three most
        probable), explained (how many of them), cosines {method: {pair: number}}, maps: method, contrast, scale,
        negative_share and, in Fig. 1, hidden_share (T,) and probabilities_after (T, T)
    <results>/{gallery,figures}/<name>/frames.json
        title, dataset, model, method, weights, subset; images: photograph, truth, names, probabilities,
        frames {contrast: [file of t_1, file of t_2, ...]}
    <results>/images/<photograph>-<model>[-<question>].{png,pdf,svg,npz,json}
        image, model, weights, method, layer, question, sentences, predictions (id, class, p), target, rival, foils, strongest,
        stand_in, weights_hash, transform, manifest, files; answers: contrast, explains, class, foils, maps (its key in the .npz),
        masked_fraction, p_before, p_after, p_other_before, p_other_after, share_before, share_after, sentence
"""

from __future__ import annotations

from collections.abc import Sequence

from wcx.errors import WcxError, choose

FORMATS = ("png", "pdf", "svg")
STYLES = ("colour", "print")  # print: signs are seen in grey, too


def file_formats(asked: str | Sequence[str]) -> list[str]:
    """Return the names of file formats; a single one is a list of one.

    Raises:
        WcxError: there is none, or an unknown one.
    """
    if not asked:
        raise WcxError(f"formats is empty; give some of: {', '.join(FORMATS)}.")
    return [choose("format", name, FORMATS) for name in ([asked] if isinstance(asked, str) else asked)]
