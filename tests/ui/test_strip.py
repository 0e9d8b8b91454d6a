"""The strip alone: the ES module in a page of its own, without Panel, as notebooks and saved pages use it."""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actlake.ui.modules import STATIC, drawing_css, drawing_module
from downloads import file_of
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

SVG = "{http://www.w3.org/2000/svg}"


def base64_float32(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def tokens(texts: list[str], n_prompt: int, special: tuple[int, ...] = ()) -> dict[str, Any]:
    n = len(texts)
    return {
        "n_prompt": n_prompt,
        "tokens": {
            "text": texts,
            "first": list(range(n)),
            "last": list(range(n)),
            "id": list(range(n)),
            "generated": [i >= n_prompt for i in range(n)],
            "special": [i in special for i in range(n)],
            "logprob": [None] * n,
            "rank": [None] * n,
            "entropy": [None] * n,
        },
    }


def saliency(texts: list[str], n_prompt: int, special: tuple[int, ...] = ()) -> dict[str, Any]:
    """Every output came equally from each token before it."""
    n = len(texts)
    shares = np.array([[1 / o if i < o else 0 for i in range(n)] for o in range(n_prompt, n)])
    matrix = {"method": "grad_x_input", "signed": False, "masked": False, "shares": base64_float32(shares)}
    matrix["outputs"] = list(range(n_prompt, n))
    return tokens(texts, n_prompt, special) | {"kind": "saliency", "saliency": matrix}


def factors(values: np.ndarray) -> dict[str, Any]:
    n, k = values.shape
    matrix = {"k": k, "layers": [0], "error": 0.5, "values": base64_float32(values)}
    return tokens([f" {i}" for i in range(n)], n // 2) | {"kind": "factors", "factors": matrix}


def neuron(values: np.ndarray) -> dict[str, Any]:
    """A neuron over one generation, of which its last token is the example."""
    n = len(values)
    texts = {"text": [f" {i}" for i in range(n)], "generated": [False] * n, "special": [False] * n}
    context = texts | {"first": 0, "values": base64_float32(values), "more_before": 0, "more_after": 0}
    counts, edges = np.histogram(values, 2)
    example = {"generation_id": 0, "position": n - 1, "value": float(values[-1])}
    given = {
        "layer": 0,
        "neuron": 0,
        "base": None,
        "stats": {"n": n, "mean": 0, "std": 0, "min": 0, "max": 0, "density": 1},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "sections": [{"name": "Greatest", "note": "", "examples": [example]}],
        "contexts": {"0": context},
    }
    return {"kind": "neuron", "neuron": given}


def draw(page: Page, data: dict[str, Any]) -> None:
    """Draws `data` in an empty page that can reach no server."""
    theme = (STATIC / "theme.css").read_text("utf-8")
    page.set_content(f"<!doctype html><style>{theme}{drawing_css()}</style><div id='strip'></div>")
    page.evaluate(
        """async ([module, data]) => {
            const drawing = await import(URL.createObjectURL(new Blob([module], {type: "text/javascript"})));
            window.changes = [];
            const options = {onChange: (change) => window.changes.push(change)};
            window.drawing = drawing.draw(document.getElementById("strip"), data, options);
        }""",
        [drawing_module(), json.loads(json.dumps(data))],
    )


def faces(page: Page) -> list[str]:
    return page.locator(".face").all_text_contents()


def tops(page: Page) -> list[int]:
    return page.locator(".token").evaluate_all("all => all.map(one => Math.round(one.getBoundingClientRect().top))")


def test_whitespace_is_visible_and_a_newline_breaks_the_line(page: Page) -> None:
    draw(page, saliency([" a", "\tb", "\n", "c", ".\n\n", "d", "\n  e"], 3))
    assert faces(page) == ["·a", "→b", "↵", "c", ".↵↵", "d", "↵··e"]
    lines = tops(page)
    assert lines[0] == lines[1] == lines[2] < lines[3] == lines[4] < lines[5] < lines[6]


def test_bytes_and_characters_that_cannot_be_seen_are_chips(page: Page) -> None:
    draw(page, saliency(["<0xE2><0x82>", "x<0xAC>", "\u202eabc", "\x00", "\u200b", "\ufeff", ""], 3))
    assert faces(page) == ["E282", "xAC", "U+202Eabc", "U+0000", "U+200B", "U+FEFF", "empty"]
    assert page.locator(".face .chip").all_text_contents() == [
        *("E2", "82", "AC", "U+202E", "U+0000", "U+200B", "U+FEFF", "empty")
    ]


def test_special_and_generated_tokens_look_different(page: Page) -> None:
    draw(page, saliency(["<s>", "a", "b", "c"], 2, special=(0,)))
    looks = page.locator(".face").evaluate_all(
        "faces => faces.map(face => [getComputedStyle(face).fontStyle, getComputedStyle(face).borderBottomColor])"
    )
    assert [style for style, _ in looks] == ["italic", "normal", "normal", "normal"]
    assert looks[1][1] == "rgba(0, 0, 0, 0)"
    assert looks[2][1] == looks[3][1] == "rgb(156, 163, 175)"


def test_the_last_token_that_is_not_special_is_explained_at_first(page: Page) -> None:
    draw(page, saliency(["a", "b", "c", "</s>"], 1, special=(3,)))
    expect(page.locator(".token.output")).to_have_attribute("data-position", "2")


def test_the_keyboard_goes_through_the_tokens_and_pins(page: Page) -> None:
    draw(page, saliency([f" {i}" for i in range(6)], 2))
    expect(page.locator(".token[tabindex='0']")).to_have_count(1)
    page.locator(".token[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.output")).to_have_attribute("data-position", "3")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.pinned")).to_have_attribute("data-position", "3")
    page.keyboard.press("Escape")
    expect(page.locator(".token.pinned")).to_have_count(0)
    page.keyboard.press("End")
    expect(page.locator(".token.output")).to_have_attribute("data-position", "5")
    expect(page.locator(".token[tabindex='0']")).to_have_attribute("data-position", "5")
    assert page.evaluate("changes") == [{"output": 3}, {"output": None}]


def test_the_arrows_go_up_and_down_between_lines(page: Page) -> None:
    draw(page, saliency(["a", "b", "\n", "d", "e", "f"], 1))
    page.locator(".token[data-position='1']").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".token[data-position='4']")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".token[data-position='1']")).to_be_focused()


def test_the_keyboard_goes_through_the_factors_and_pins(page: Page) -> None:
    draw(page, factors(np.eye(6)[:, :3]))
    page.locator(".spark").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".spark").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".spark[aria-pressed=true]")).to_have_attribute("data-factor", "1")
    page.keyboard.press("Escape")
    expect(page.locator(".spark[aria-pressed=true]")).to_have_count(0)
    assert page.evaluate("changes") == [{"factor": 1}, {"factor": None}]


def test_pointing_at_a_token_marks_it_in_every_sparkline(page: Page) -> None:
    draw(page, factors(np.eye(6)[:, :3]))
    page.locator(".token").nth(2).hover()
    marks = page.locator(".spark-pointer").evaluate_all(
        "marks => marks.map(mark => mark.hidden ? null : mark.style.left)"
    )
    assert [round(float(mark.rstrip("%")), 2) for mark in marks] == [41.67] * 3


def test_hovering_changes_styles_and_nothing_else_of_the_tokens(page: Page) -> None:
    draw(page, factors(np.random.default_rng(0).random((50, 5))))
    page.evaluate("""() => {
        window.seen = new Set();
        const watch = new MutationObserver((all) => all.forEach((one) => seen.add(one.attributeName ?? one.type)));
        const options = {subtree: true, childList: true, attributes: true, characterData: true};
        watch.observe(document.querySelector(".line"), options);
    }""")
    page.locator(".spark").nth(3).hover()
    assert page.evaluate("[...seen]") == ["style"]


def test_a_text_is_readable_on_every_colour_of_many_factors(page: Page) -> None:
    k, levels = 32, 25
    values = np.zeros((k * levels, k))
    for factor in range(k):
        values[factor * levels : (factor + 1) * levels, factor] = np.linspace(1, 1 / levels, levels)
    draw(page, factors(values))
    pairs = page.locator(".face").evaluate_all(
        "faces => faces.map(face => [getComputedStyle(face).backgroundColor, getComputedStyle(face).color])"
    )
    assert min(contrast(*pair) for pair in pairs) >= 4.5
    assert len({background for background, _ in pairs[::levels]}) == k


COLOURS = "faces => faces.map((face) => face.style.backgroundColor)"


def long_strip(page: Page, *, idle: bool) -> tuple[list[str], list[str]]:
    """Draws a strip that is many windows long, pins its first factor and then hovers the second. Gives the colours that all
    tokens have under each when nothing is left to do. Without `idle` the browser never has time for what is out of sight."""
    values = np.random.default_rng(0).random((1500, 2))
    draw(page, factors(values))
    found = []
    for factor in (1, 0):
        page.locator(".spark").nth(factor).hover()
        page.locator(".spark").nth(factor).click()
        with page.expect_download():  # not by the mouse: on the way down rows are laid out, and the button moves
            page.evaluate("document.querySelector('[aria-label=\"save as an SVG picture\"]').click()")
        found.append(page.locator(".face").evaluate_all(COLOURS))
    page.evaluate("window.scrollTo(0, 0)")
    if not idle:
        page.evaluate("window.requestIdleCallback = () => 1")
    page.locator(".spark").nth(1).hover()
    return found[1], found[0]


def test_of_a_long_strip_what_comes_into_sight_is_right_in_its_first_frame(page: Page) -> None:
    before, after = long_strip(page, idle=False)
    now = page.locator(".face").evaluate_all(COLOURS)
    n_seen = page.locator(".token").evaluate_all(
        "all => all.filter((one) => one.getBoundingClientRect().top < window.innerHeight).length"
    )
    assert 100 < n_seen < 1000
    assert now[:n_seen] == after[:n_seen]
    assert now[-100:] == before[-100:] != after[-100:]
    at_the_end = page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("scroll", () => requestAnimationFrame(() => {
                done([...document.querySelectorAll(".face")].slice(-50).map((face) => face.style.backgroundColor));
            }), {once: true});
            window.scrollTo(0, document.body.scrollHeight);
        })"""
    )
    assert at_the_end == after[-50:]


def test_a_picture_of_a_long_strip_has_the_colours_of_all_tokens(page: Page, tmp_path: Path) -> None:
    _, after = long_strip(page, idle=False)
    with page.expect_download() as saved:
        page.evaluate("document.querySelector('[aria-label=\"save as an SVG picture\"]').click()")
    saved.value.save_as(tmp_path / "strip.svg")
    drawn = (tmp_path / "strip.svg").read_text("utf-8")
    assert page.locator(".face").evaluate_all(COLOURS) == after
    computed = page.locator(".face").evaluate_all("all => all.map((face) => getComputedStyle(face).backgroundColor)")
    assert [colour for colour in computed if f'fill="{colour}"' not in drawn] == []


def test_what_is_out_of_sight_is_coloured_when_the_browser_has_time(page: Page) -> None:
    _, after = long_strip(page, idle=True)
    page.wait_for_function(
        "after => [...document.querySelectorAll('.face')].every((face, i) => face.style.backgroundColor === after[i])",
        arg=after,
    )


@pytest.mark.parametrize(("ending", "longest"), [("\n", 70), ("end.", 196), (" more", 256)])
def test_a_long_strip_is_cut_where_a_line_or_a_sentence_ends_or_else_after_256_tokens(
    page: Page, ending: str, longest: int
) -> None:
    texts = [ending if i % 7 == 6 else f" {i}" for i in range(1000)]
    draw(page, saliency(texts, 999))
    stretches: list[list[str]] = page.locator(".stretch").evaluate_all(
        "all => all.map((one) => [...one.querySelectorAll('.token')].map((token) => token.dataset.position))"
    )
    assert [int(position) for stretch in stretches for position in stretch] == list(range(1000))
    assert {len(stretch) for stretch in stretches[:-1]} == {longest}


def test_what_is_far_out_of_sight_is_laid_out_when_it_is_reached(page: Page) -> None:
    draw(page, saliency(["a", "b"] + 3000 * [" word"], 3000))
    last = page.locator(".token").last
    is_laid_out = "one => one.checkVisibility({contentVisibilityAuto: true})"
    assert not last.evaluate(is_laid_out)
    page.locator(".token").first.press("End")
    expect(last).to_be_focused()
    expect(last).to_be_in_viewport()
    assert last.evaluate(is_laid_out)


def test_a_small_activation_never_reads_as_nothing(page: Page) -> None:
    draw(page, neuron(np.array([1e-5, -2.5e-5, 3.14159e-5])))
    expect(page.locator(".example-value")).to_have_text("0.000031")
    expect(page.locator(".legend")).to_have_text("activation−0.0000310.000031")
    tip = page.get_by_role("tooltip")
    page.locator(".token").nth(1).hover()
    expect(tip).to_contain_text("activation−0.000025")
    page.locator(".token").nth(2).hover()
    expect(tip).to_contain_text("activation0.0000314159")
    page.locator(".histogram-plot").press("ArrowRight")
    expect(tip).to_contain_text("from−0.000025below0.00000320795")


def test_a_picture_has_the_scale_the_ring_around_the_chosen_token_and_no_hint(page: Page) -> None:
    draw(page, neuron(np.array([1.0, -2.0, 3.0])))
    drawn = ET.fromstring(file_of(page, "save as an SVG picture"))
    ink = page.locator(".strip").evaluate("one => getComputedStyle(one).color")
    rings = [one for one in drawn.iter(f"{SVG}rect") if one.get("fill") == "none" and one.get("stroke") == ink]
    assert [one.get("stroke-width") for one in rings] == ["1.5"]
    at = page.locator(".token.chosen").evaluate(
        "one => one.getBoundingClientRect().left - one.closest('.strip').getBoundingClientRect().left"
    )
    assert float(rings[0].attrib["x"]) == pytest.approx(at - 0.75, abs=0.01)
    assert [len(one) for one in drawn.iter(f"{SVG}svg")][-1] == 48
    draw(page, saliency(["a", "b"], 1))
    assert "click an output to pin it" not in "".join(ET.fromstring(file_of(page, "save as an SVG picture")).itertext())


def test_a_picture_that_is_too_large_for_a_browser_is_less_sharp(page: Page) -> None:
    draw(page, saliency(["a", "b"] + 800 * ["\n"], 801))
    page.locator(".strip").evaluate("one => one.classList.add('pictured')")  # all of it is laid out, in sight or not
    assert page.locator(".strip").evaluate("one => one.scrollHeight") > 32768
    with page.expect_download() as saved:
        page.get_by_role("button", name="save as a PNG picture").click()
    header = Path(saved.value.path()).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[20:24], "big") == 16384


def contrast(background: str, ink: str) -> float:
    """WCAG 2 contrast of an ink on a background that lies over white."""
    *base, alpha = (*numbers(background), 1.0)[:4]
    over = [255 + (channel - 255) * alpha for channel in base]
    light, dark = sorted([luminance(over), luminance(numbers(ink))], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def numbers(colour: str) -> list[float]:
    return [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")]


def luminance(colour: list[float]) -> float:
    scaled = np.array(colour) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
