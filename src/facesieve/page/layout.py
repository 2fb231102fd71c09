"""The page, laid out with Gradio. It asks no other host for anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facesieve.errors import FacesieveError, MissingExtraError, SettingError
from facesieve.page.studio import Shown, Studio
from facesieve.purify import PRESETS

if TYPE_CHECKING:
    import gradio

DODGE = "anybody else"
PRESETS_SCALE = "the preset's"
KEPT_SECONDS = 600  # uploads and results are deleted after so long, and when the page ends
CSS = """
.gradio-container {max-width: 1080px !important; margin: auto}
#message {min-height: 1.6em}
#names table {width: 100%}
#names td, #names th {padding: .35em .5em; word-break: normal; overflow-wrap: normal}
footer {display: none !important}
"""


def gradio_library() -> Any:
    """Gradio, imported now. Raises ``MissingExtraError``."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("the page", "page") from error
    return gradio


def appearance(gr: Any) -> dict[str, Any]:
    """How the page looks: fonts of the reader's own system, so that none is fetched."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"theme": gr.themes.Soft(primary_hue="teal", **fonts), "css": CSS, "footer_links": []}


def build(studio: Studio, samples: Sequence[Path] = ()) -> gradio.Blocks:
    """The page's blocks; ``samples`` are photographs to choose from."""
    gr = gradio_library()
    with gr.Blocks(title="facesieve", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown("# facesieve\nA photograph goes through the shield before anyone is asked who it is.")
        with gr.Row():
            with gr.Column(min_width=280):
                photo = gr.Image(
                    type="filepath", label="Photograph", sources=["upload", "clipboard"], elem_id="photo", height=300, buttons=[]
                )
                if samples:
                    gr.Examples([[str(path)] for path in samples], [photo], label="Samples (public domain)", elem_id="samples")
                with gr.Row():
                    preset = gr.Dropdown(list(PRESETS), value=studio.preset, label="Preset", elem_id="preset", min_width=120)
                    scale = gr.Dropdown([PRESETS_SCALE, "2", "4", "8"], value=PRESETS_SCALE, label="Scale", min_width=120)
                    seed = gr.Textbox(label="Seed", info="empty: secret noise", elem_id="seed", min_width=120, max_lines=1)
                purify = gr.Button("Purify", variant="primary", elem_id="purify")
                with gr.Accordion("Attack it first", open=True):
                    gr.Markdown("PGD on the recogniser, which does not know the shield. The largest face, aligned.")
                    eps = gr.Slider(0.5, 16, value=4, step=0.5, label="ε, levels of 255", elem_id="eps")
                    steps = gr.Slider(1, 40, value=15, step=1, label="Steps", elem_id="steps")
                    victim = gr.Dropdown([DODGE, *studio.people], value=DODGE, label="To be taken for", elem_id="victim")
                    attack = gr.Button("Attack, then purify", variant="stop", elem_id="attack")
            with gr.Column(min_width=280, scale=2):
                message = gr.Markdown("Drop a photograph, or take a sample.", elem_id="message")
                slider = gr.ImageSlider(
                    label="Before and after",
                    elem_id="slider",
                    interactive=False,
                    format="png",
                    height=420,
                    buttons=["fullscreen"],
                )
                names = gr.Markdown(elem_id="names")
                still = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
                gr.Markdown("Every step, and the amplified difference")
                sheet = gr.Image(show_label=False, elem_id="sheet", **still)
                gr.Markdown("The result, to keep")
                result = gr.Image(show_label=False, elem_id="result", height=240, **still)
        settings, shown = [preset, scale, seed], [message, slider, names, sheet, result]
        queue = {"concurrency_limit": 1, "concurrency_id": "shield", "show_progress": "full", "show_progress_on": [slider]}
        purify.click(_purify(gr, studio), [photo, *settings], shown, **queue)
        attack.click(_attack(gr, studio), [photo, eps, steps, victim, *settings], shown, **queue)
    return page


def _purify(gr: Any, studio: Studio) -> Any:
    def run(photo: str | None, preset: str, scale: str, seed: str, progress: Any = gr.Progress()) -> list[Any]:
        def work() -> Shown:
            path = None if photo is None else Path(photo)
            return studio.purify(path, preset, _scale(scale), _seed(seed), lambda share, what: progress(share, desc=what))

        return _answer(work)

    return run


def _attack(gr: Any, studio: Studio) -> Any:
    def run(
        photo: str | None,
        eps: float,
        steps: float,
        victim: str,
        preset: str,
        scale: str,
        seed: str,
        progress: Any = gr.Progress(),
    ) -> list[Any]:
        def work() -> Shown:
            path, whom = None if photo is None else Path(photo), None if victim == DODGE else victim
            say = lambda share, what: progress(share, desc=what)  # noqa: E731
            return studio.attack(path, eps, int(steps), whom, preset, _scale(scale), _seed(seed), say)

        return _answer(work)

    return run


def _answer(work: Any) -> list[Any]:
    """What is shown; of a user's mistake one line, and nothing of the photograph before."""
    try:
        shown = work()
    except FacesieveError as error:
        return [f"**{error}**", None, "", None, None]
    return [_sentence(shown), (shown.before, shown.after), _table(shown), shown.steps, shown.after]


def _scale(text: str) -> int | None:
    return None if text == PRESETS_SCALE else int(text)


def _seed(text: str) -> int | None:
    if text.strip() and not text.strip().isdecimal():
        raise SettingError(f"seed {text.strip()!r}: a whole number, or nothing for secret noise")
    return int(text) if text.strip() else None


def _sentence(shown: Shown) -> str:
    first, *_, last = shown.names[0]
    if last.person is None:
        return "Purified. There is no gallery, so nobody is named: start the page with one."
    middle = [one for one in shown.names[0] if one.what == "attacked"]
    if middle and middle[0].person != first.person:
        back = "gives the name back" if last.person == first.person else "does not give the name back"
        return f"The attack makes {first.person} into {middle[0].person}; the shield {back}."
    if middle:
        return "The attack did not change the name: give it more ε or more steps."
    same = "the same before and after" if last.person == first.person else f"{first.person} before, {last.person} after"
    return f"Purified. Nearest in the gallery: {same}."


def _table(shown: Shown) -> str:
    """Who each face is said to be, as Markdown."""
    lines = ["| face | nearest | cosine | tamper score |", "|---|---|---|---|"]
    for number, (names, tamper) in enumerate(zip(shown.names, shown.tamper, strict=True), 1):
        for one in names:
            which = one.what if len(shown.names) == 1 else f"{number}, {one.what}"
            score = "" if one.score is None else f"{one.score:.2f}"
            said = "" if one.what != "purified" else f"{tamper:.2f}"
            person = (one.person or "").replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| {which} | {person} | {score} | {said} |")
    return "\n".join(lines)
