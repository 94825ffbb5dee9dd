"""Names in any script: drawn by a font that has their letters, or written as codes with a line that says so; never as boxes."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import fontManager

from tests.report.pictures.test_gallery import plate
from wcx.report.pictures import fonts
from wcx.report.pictures.sheet import Label, Sheet, wrap

LETTER = "\U00016800"  # of Bamum, which hardly a machine has a font for
CACHES = (fonts.families, fonts._family, fonts._installed, fonts._letters, fonts._charmap, wrap)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Matplotlib's own fonts, whatever the machine has."""
    own = [face for face in fontManager.ttflist if "mpl-data" in str(face.fname)]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "PACKAGES", ("no-such-package-",))
    clear()
    yield
    clear()


def clear() -> None:
    for cached in CACHES:
        cached.cache_clear()


def square_font(path: Path, letters: str) -> Path:
    """A font whose letters are squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(100, 0), (100, 700), (800, 700), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"letter{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Noto Sans Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return path


def test_letters_without_a_font_are_codes_and_the_figure_and_the_log_say_so(caplog: pytest.LogCaptureFixture) -> None:
    sheet = Sheet([2.0], [])
    with caplog.at_level(logging.WARNING, "wcx"):
        sheet.text([Label("黑背信天翁 Möwe → ▲ t₁ लेसन", bold=True)])
        texts = [text.get_text() for text in sheet.figure().texts]
    written = "".join("".join(texts).split())
    assert "".join([r"\u9ed1\u80cc\u4fe1\u5929\u7fc1Möwe→▲t₁"]) in written
    for told in (written, "".join(caplog.text.split())):
        assert (
            "Nofontherehasthesescripts,theirlettersarewrittenascodes:CJK,Devanagari.Remedy:pipinstall'wcx[fonts]'"
            in told
        )
    assert not any("\\" in re.sub(r"\\u[0-9a-f]{4}", "", line) for line in texts), "no code is torn apart"


def test_what_the_first_font_has_needs_no_other() -> None:
    assert fonts.families("Möwe, p = 0.3 → ▲ t₁ Чайка γλάρος") == (fonts.FIRST,)
    assert fonts.missing("Möwe, p = 0.3 → ▲ t₁ Чайка γλάρος") == set()


def test_another_font_draws_what_the_first_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bold as well, without a word from Matplotlib; the squares' ink is where the letters are."""
    fontManager.addfont(str(square_font(tmp_path / "squares.ttf", "鳥" + LETTER)))
    clear()
    assert fonts.families(f"gull 鳥{LETTER}") == (fonts.FIRST, "Noto Sans Squares")
    assert fonts.missing(f"gull 鳥{LETTER}") == set()
    sheet = Sheet([1.0], [], margin=0.0)
    with caplog.at_level(logging.WARNING):
        sheet.text([Label("鳥" * 5, bold=True), Label(LETTER * 5)])
        figure = sheet.figure()
        figure.set_dpi(200)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    assert caplog.text == ""
    dark = (np.asarray(canvas.buffer_rgba())[..., 0] < 128).mean()
    drawn = 10 * 0.7 * 0.7 * (7.5 / 72) ** 2 / (figure.get_figwidth() * figure.get_figheight())  # ten squares of 0.7 em
    assert dark == pytest.approx(drawn, rel=0.1)  # pixels are whole


def test_a_package_of_the_extra_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noto_birds").mkdir()
    square_font(tmp_path / "noto_birds/birds.ttf", "鳥")
    about = tmp_path / "fontpkg_noto_birds-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fontpkg-noto-birds\nVersion: 1.0\n")
    (about / "RECORD").write_text("noto_birds/birds.ttf,,\nfontpkg_noto_birds-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fonts, "PACKAGES", ("fontpkg-noto-birds",))
    assert fonts.families("鳥") == (fonts.FIRST, "Noto Sans Squares")


def test_a_matplotlib_that_does_not_shape_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """DejaVu Sans has Arabic letters, but in their order and form they would be wrong."""
    monkeypatch.setattr(fonts, "SHAPES", False)
    assert fonts.missing("نورس gull") == {"Arabic"}
    assert "right-to-left and Indic scripts need matplotlib >= 3.11" in fonts.remedy({"Arabic"})


def test_a_line_break_leaves_marks_at_their_letters() -> None:
    assert fonts.clusters("e\u0301a\u0308o") == ["e\u0301", "a\u0308", "o"]
    assert all(not line.startswith("\u0301") for line in wrap("e\u0301" * 40, 0.5, 8))


def test_numbers_do_not_stand_in_the_line_of_a_name_from_right_to_left() -> None:
    """They would change places: 0.3 → 0.2."""
    assert fonts.is_right_to_left("طائر")
    assert fonts.is_right_to_left("gull שחף")
    shown = plate("fig1", 1)
    for name, together in (("gull", True), ("طائر", False)):
        tile = shown.hidden(shown.pictures[0], shown.views[0], 0, [name, "tern"], side=3.0)
        assert any(label.text.startswith(f"{name}: ") for label in tile.below) == together
        assert (f"{name}:" in [label.text for label in tile.below]) != together
