"""The page, laid out with Gradio. It fetches nothing from other hosts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facesieve.errors import FacesieveError, InputError, MissingExtraError, SettingError
from facesieve.page.actions import MAX_EPS, MAX_STEPS, Actions, Attack, Settings, Shown
from facesieve.page.text import mistake, sentence, table
from facesieve.progress import Report

if TYPE_CHECKING:
    import gradio

DODGE = "anybody else"
PRESETS_SCALE = "the preset's"
SCALES = [PRESETS_SCALE, "2", "4", "8"]
KEPT_SECONDS = 600  # uploads and results are deleted after so long, and when the page ends
CSS = """
.gradio-container {max-width: 1080px !important; margin: auto}
#message {min-height: 1.6em}
#names table {width: 100%}
#names td, #names th {padding: .35em .5em; word-break: normal; overflow-wrap: normal}
#sheet {contain: inline-size}
#sheet .image-container {overflow-x: auto; padding-bottom: 36px}
#sheet .image-container > button {min-width: 640px}
#sheet .icon-button-wrapper {top: auto; bottom: 4px}
footer {display: none !important}
"""


TO_THE_RESULT = "() => document.querySelector('#slider').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


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
    """How the page looks: fonts of the reader's own system, so that none are fetched."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"theme": gr.themes.Soft(primary_hue="teal", **fonts), "css": CSS, "footer_links": []}


def build(actions: Actions, samples: Sequence[Path] = ()) -> gradio.Blocks:
    """The page's blocks; ``samples`` are photographs to choose from."""
    gr = gradio_library()
    with gr.Blocks(title="facesieve", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown("# facesieve\nA photograph goes through the shield before anyone is asked who it is.")
        with gr.Row():
            with gr.Column(min_width=280):
                photo = _photograph(gr, samples)
                settings = _settings(gr, actions)
                purify = gr.Button("Purify", variant="primary", elem_id="purify")
                goal, attack = _playground(gr, actions)
            with gr.Column(min_width=280, scale=2):
                message, slider, *others = _results(gr)
        # Gradio's own reading of the inputs is left out: it opens the photograph before us, and says nothing about one it cannot.
        how = {"preprocess": False, "concurrency_limit": 1, "concurrency_id": "shield"}
        how |= {"show_progress": "full", "show_progress_on": [slider], "api_visibility": "private"}
        shown = [message, slider, *others]
        own = Own(frozenset(path.resolve() for path in samples), gr.utils.get_upload_folder)
        done = [
            purify.click(_purify(gr, actions, own), [photo, *settings], shown, **how),
            attack.click(_attack(gr, actions, own), [photo, *goal, *settings], shown, **how),
        ]
        for one in done:
            one.then(fn=None, js=TO_THE_RESULT)
    return page


@dataclass(frozen=True)
class Own:
    """The files that the page may read: what was uploaded to it, and its samples.

    A request says in words where its photograph lies, and Gradio checks that only of a request in its own form.
    """

    samples: frozenset[Path]
    uploads: Callable[[], str]

    def path(self, photo: Any) -> Path | None:
        """Where the photograph of a request lies; None without one. Raises ``InputError`` for any other file."""
        if not photo:
            return None
        try:
            path = Path(photo["path"]).resolve()  # as it is, not as it is written: past links and ..
            known = path in self.samples or path.is_relative_to(Path(self.uploads()).resolve())
        except (TypeError, KeyError, ValueError, OSError, RuntimeError):  # a NUL in it; links in a ring
            known = False
        if not known:
            raise InputError("not a photograph that was given to this page", advice="drop one, or take a sample")
        return path


def _photograph(gr: Any, samples: Sequence[Path]) -> Any:
    photo = gr.Image(
        type="filepath", label="Photograph", sources=["upload", "clipboard"], elem_id="photo", height=300, buttons=[]
    )
    if samples:
        gr.Examples([[str(path)] for path in samples], [photo], label="Samples", elem_id="samples")
    return photo


def _settings(gr: Any, actions: Actions) -> list[Any]:
    with gr.Row():
        return [
            gr.Dropdown(actions.presets, value=actions.preset, label="Preset", elem_id="preset", min_width=120),
            gr.Dropdown(SCALES, value=PRESETS_SCALE, label="Scale", elem_id="scale", min_width=120),
            gr.Textbox(label="Seed", info="empty: secret noise", elem_id="seed", min_width=120, max_lines=1),
        ]


def _playground(gr: Any, actions: Actions) -> tuple[list[Any], Any]:
    with gr.Accordion("Attack it first", open=True):
        gr.Markdown("PGD on the recogniser, without knowing the shield. It takes the largest face, aligned.")
        people = [DODGE, *actions.people]
        goal = [
            gr.Slider(0.5, MAX_EPS, value=4, step=0.5, label="ε, levels of 255", elem_id="eps"),
            gr.Slider(1, MAX_STEPS, value=15, step=1, label="Steps", elem_id="steps"),
            gr.Dropdown(people, value=DODGE, label="To be taken for", elem_id="victim", allow_custom_value=True),
        ]
        return goal, gr.Button("Attack, then purify", variant="stop", elem_id="attack")


def _results(gr: Any) -> list[Any]:
    still = {"show_label": False, "interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
    message = gr.Markdown("Drop a photograph, or take a sample.", elem_id="message")
    slider = gr.ImageSlider(
        label="Before and after", elem_id="slider", interactive=False, format="png", height=420, buttons=["fullscreen"]
    )
    names = gr.Markdown(elem_id="names")
    gr.Markdown("Every step, and the amplified difference")
    sheet = gr.Image(elem_id="sheet", **still)
    gr.Markdown("The result, to keep")
    return [message, slider, names, sheet, gr.Image(elem_id="result", height=240, **still)]


def _purify(gr: Any, actions: Actions, own: Own) -> Any:
    def run(photo: Any, preset: Any, scale: Any, seed: Any, progress: Any = gr.Progress()) -> list[Any]:
        def work() -> Shown:
            return actions.purify(own.path(photo), _chosen(preset, scale, seed), _report(progress))

        return _answer(work)

    return run


def _attack(gr: Any, actions: Actions, own: Own) -> Any:
    def run(
        photo: Any, eps: Any, steps: Any, victim: Any, preset: Any, scale: Any, seed: Any, progress: Any = gr.Progress()
    ) -> list[Any]:
        def work() -> Shown:
            whom = None if victim in (DODGE, None, "") else str(victim)
            wanted = Attack(_number(eps, "ε"), int(_number(steps, "steps")), whom)
            return actions.attack(own.path(photo), wanted, _chosen(preset, scale, seed), _report(progress))

        return _answer(work)

    return run


def _answer(work: Callable[[], Shown]) -> list[Any]:
    """What is shown; for a user's mistake one line, and nothing of the previous photograph."""
    try:
        shown = work()
    except FacesieveError as error:
        return [mistake(error), None, "", None, None]
    return [sentence(shown), (shown.before, shown.after), table(shown), shown.steps, shown.after]


def _report(progress: Any) -> Report:
    return lambda one: progress(one.done / one.total, desc=one.what)


def _chosen(preset: Any, scale: Any, seed: Any) -> Settings:
    return Settings(str(preset), _scale(scale), _seed(seed))


def _scale(text: Any) -> int | None:
    if text not in SCALES:
        raise SettingError(f"scale {text!r}: choose {', '.join(SCALES[1:])} or {PRESETS_SCALE}")
    return None if text == PRESETS_SCALE else int(text)


def _seed(text: Any) -> int | None:
    given = str(text or "").strip()
    if given and not (given.isdecimal() and len(given) <= 18):
        raise SettingError(f"seed {given[:20]!r}: a whole number of at most 18 digits, or nothing for secret noise")
    return int(given) if given else None


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError("a number is needed", what)
    return float(value)
