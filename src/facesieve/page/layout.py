"""The page, laid out with Gradio. It fetches nothing from other hosts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facesieve.errors import FacesieveError, MissingExtraError, SettingError
from facesieve.page.actions import MAX_EPS, MAX_FILES, MAX_STEPS, Actions, Attack, Settings, Shown
from facesieve.page.own import Own, Stops
from facesieve.page.text import message, mistake, of_folder, table, tamper
from facesieve.progress import Progress, Report

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
#sheet .grid-container {grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)) !important}
#sheet, #sheet .grid-wrap {min-height: 0; height: auto !important; max-height: none !important; overflow: visible}
#sheet .caption-label {white-space: normal; font-size: .75em; padding: .2em .5em; max-width: 95%}
.progress {min-height: 3.4em}
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
                purify, stop, progress = _buttons(gr, "Purify", "primary", "purify")
                goal, (attack, stop_attack, attacking) = _playground(gr, actions)
                folder, archive, (pack, stop_pack, packing) = _folder(gr)
            with gr.Column(min_width=280, scale=2):
                shown = _results(gr)
        run = Run(actions, Own(frozenset(path.resolve() for path in samples), gr.utils.get_upload_folder), Stops())
        # Gradio's own reading of the inputs is left out: it opens the photograph before us, and says nothing about one it cannot.
        how = {"preprocess": False, "concurrency_limit": 1, "concurrency_id": "shield", "show_progress": "full"}
        how |= {"api_visibility": "private"}
        for one in (
            purify.click(_purify(gr, run), [photo, *settings], shown, show_progress_on=[progress], **how),
            attack.click(_attack(gr, run), [photo, *goal, *settings], shown, show_progress_on=[attacking], **how),
        ):
            one.then(fn=None, js=TO_THE_RESULT)
        pack.click(_pack(gr, run), [folder, *settings], [packing, archive], show_progress_on=[packing], **how)
        for button in (stop, stop_attack, stop_pack):  # not by Gradio's own way, which lets the work go on and says "Error"
            button.click(_stop(gr, run), None, None, queue=False, api_visibility="private")
    return page


@dataclass(frozen=True)
class Run:
    """What the page's buttons work with."""

    actions: Actions
    own: Own
    stops: Stops


def _photograph(gr: Any, samples: Sequence[Path]) -> Any:
    photo = gr.Image(
        type="filepath", label="Photograph", sources=["upload", "webcam", "clipboard"], elem_id="photo", height=300, buttons=[]
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


def _buttons(gr: Any, what: str, variant: str, name: str) -> tuple[Any, Any, Any]:
    """A button, one that stops it, and the place below where it says how far it is."""
    with gr.Row():
        begin = gr.Button(what, variant=variant, elem_id=name, scale=3, min_width=140)
        stop = gr.Button("Stop", elem_id=f"stop-{name}", scale=1, min_width=80)
    return begin, stop, gr.Markdown(elem_id=f"{name}-progress", elem_classes="progress")


def _playground(gr: Any, actions: Actions) -> tuple[list[Any], tuple[Any, Any, Any]]:
    with gr.Accordion("Attack it first", open=True):
        gr.Markdown("PGD on the recogniser, without knowing the shield. It takes the largest face, aligned.")
        people = [DODGE, *actions.people]
        goal = [
            gr.Slider(0.5, MAX_EPS, value=4, step=0.5, label="ε, levels of 255", elem_id="eps"),
            gr.Slider(1, MAX_STEPS, value=15, step=1, label="Steps", elem_id="steps"),
            gr.Dropdown(people, value=DODGE, label="To be taken for", elem_id="victim", allow_custom_value=True),
        ]
        return goal, _buttons(gr, "Attack, then purify", "stop", "attack")


def _folder(gr: Any) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    with gr.Accordion("A whole folder", open=False):
        gr.Markdown(f"Up to {MAX_FILES} photographs, purified as `secure`; whatever cannot be is left out and named.")
        folder = gr.File(file_count="directory", label="Folder", elem_id="folder", height=140)
        buttons = _buttons(gr, "Purify the folder", "primary", "pack")
        return folder, gr.File(label="The results", interactive=False, elem_id="archive"), buttons


def _results(gr: Any) -> list[Any]:
    still = {"show_label": False, "interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
    message = gr.Markdown("Drop a photograph, or take a sample.", elem_id="message")
    tampered = gr.HTML(elem_id="tamper")
    slider = gr.ImageSlider(
        label="Before and after", elem_id="slider", interactive=False, format="png", height=420, buttons=["fullscreen"]
    )
    names = gr.Markdown(elem_id="names")
    gr.Markdown("Every step, and the amplified difference")
    steps = gr.Gallery(elem_id="sheet", show_label=False, format="png", columns=6, height="auto", buttons=["fullscreen"])
    with gr.Row():
        with gr.Column(min_width=240):
            gr.Markdown("**secure**: a face is only what the purifier made. The one to identify from.")
            secure = gr.Image(elem_id="result", height=260, **still)
        with gr.Column(min_width=240):
            gr.Markdown(
                "**detail**: for people, with the photograph's fine detail, and an attacker's in it. Never before a recogniser."
            )
            detail = gr.Image(elem_id="detail", height=260, **still)
    return [message, tampered, slider, names, steps, secure, detail]


def _asked(gr: Any, function: Any) -> Any:
    """A function whose ``request`` Gradio fills in; it finds it by its annotation, which is text where it is written."""
    function.__annotations__["request"] = gr.Request
    return function


def _purify(gr: Any, run: Run) -> Any:
    def purified(photo: Any, preset: Any, scale: Any, seed: Any, request: Any, progress: Any = gr.Progress()) -> list[Any]:
        def work() -> Shown:
            return run.actions.purify(run.own.path(photo), _chosen(preset, scale, seed), _report(run, request, progress))

        return _answer(work)

    return _asked(gr, purified)


def _attack(gr: Any, run: Run) -> Any:
    def attacked(
        photo: Any, eps: Any, steps: Any, victim: Any, preset: Any, scale: Any, seed: Any, request: Any,
        progress: Any = gr.Progress(),
    ) -> list[Any]:  # fmt: skip
        def work() -> Shown:
            whom = None if victim in (DODGE, None, "") else str(victim)
            wanted = Attack(_number(eps, "ε"), int(_number(steps, "steps")), whom)
            report = _report(run, request, progress)
            return run.actions.attack(run.own.path(photo), wanted, _chosen(preset, scale, seed), report)

        return _answer(work)

    return _asked(gr, attacked)


def _pack(gr: Any, run: Run) -> Any:
    def packed(folder: Any, preset: Any, scale: Any, seed: Any, request: Any, progress: Any = gr.Progress()) -> list[Any]:
        try:
            files = folder if isinstance(folder, list) else []
            paths = [path for path in map(run.own.path, files) if path is not None]
            data, failures, doubts = run.actions.purify_all(paths, _chosen(preset, scale, seed), _report(run, request, progress))
        except FacesieveError as error:
            return [mistake(error), None]
        return [of_folder(len(paths), failures, doubts), run.own.keep("purified.zip", data, KEPT_SECONDS)]

    return _asked(gr, packed)


def _stop(gr: Any, run: Run) -> Any:
    def stopped(request: Any) -> None:
        run.stops.stop(str(request.session_hash))

    return _asked(gr, stopped)


def _answer(work: Callable[[], Shown]) -> list[Any]:
    """What is shown; for a user's mistake one line, and nothing of the previous photograph."""
    try:
        shown = work()
    except FacesieveError as error:
        return [mistake(error), "", None, "", None, None, None]
    pictures = (shown.before, shown.after)
    return [message(shown), tamper(shown), pictures, table(shown), shown.steps, shown.after, shown.detail]


def _report(run: Run, request: Any, progress: Any) -> Report:
    check = run.stops.check_for(str(request.session_hash))

    def told(one: Progress) -> None:
        check()
        progress(one.done / one.total, desc=one.what)

    return told


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
