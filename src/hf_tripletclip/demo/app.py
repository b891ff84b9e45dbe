# SPDX-License-Identifier: Apache-2.0
"""The Gradio app: the page, what its buttons do, and how it is served."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.data.scenes.build import make_example
from hf_tripletclip.data.scenes.drawing import require_fonts
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import CAPTION, IMAGE, NEG_CAPTION, NEGATIVE_TYPE, NEGATIVE_TYPES
from hf_tripletclip.demo import rendering
from hf_tripletclip.demo.inputs import (
    FORMATS,
    MAX_BYTES,
    MAX_MEGABYTES,
    NO_PICTURE,
    DemoError,
    NegativeWriter,
    check_image,
    either,
    read_captions,
)
from hf_tripletclip.demo.scoring import DemoModels

MAX_WAITING = 32  # questions in the queue; further visitors are asked to come back later
KEEP_UPLOADS = 3_600  # seconds
STYLE = Path(__file__).with_name("style.css")
MODELS = "models"  # the queue that all questions to the models share
EXAMPLE_SIZE = 256  # pixels of a side of an example picture
EXAMPLE_NOUNS = 24  # the default of `load_scenes`, on which models are trained
EXAMPLE_SEED = 0


@dataclass(frozen=True)
class Example:
    """
    An example picture with its caption and its hard negative.

    Args:
        path (`str`): File of the picture.
        caption (`str`): The caption, which is true of the picture.
        negative (`str`): The hard negative, which is false of it.
        kind (`str`): What was changed, one of `NEGATIVE_TYPES`.
    """

    path: str
    caption: str
    negative: str
    kind: str


def draw_examples(folder: Path) -> list[Example]:
    """
    Draw the first rows of the test split of `scenes`, one of each kind of negative.

    Args:
        folder (`Path`): Where the pictures are written.

    Returns:
        `list[Example]`: Empty if the fonts of the extra `scenes` are not installed.
    """
    try:
        require_fonts()
    except ImportError:  # the extra `scenes`
        return []
    nouns, columns = choose_nouns(EXAMPLE_NOUNS), (IMAGE, CAPTION, NEG_CAPTION, NEGATIVE_TYPE)
    examples = []
    for index in range(len(NEGATIVE_TYPES)):
        row = make_example("test", index, EXAMPLE_SEED, nouns, EXAMPLE_SIZE, columns=columns)
        path = folder / f"scene-{index + 1}.png"
        path.write_bytes(row[IMAGE]["bytes"])
        examples.append(Example(str(path), row[CAPTION], row[NEG_CAPTION], row[NEGATIVE_TYPE]))
    return examples


class Handlers:
    """
    What the page's buttons do, as plain methods that know nothing of Gradio.

    Args:
        models ([`DemoModels`]): The models to ask.
        writer (`NegativeWriter`): Writes hard negatives by rules.
        folders (`Sequence[str or os.PathLike]`): Folders in which pictures may lie, see
            [`~hf_tripletclip.demo.inputs.check_image`]: the folder of uploads and the folder of the examples. If there
            are none, every picture is refused.
    """

    def __init__(
        self, models: DemoModels, writer: NegativeWriter, folders: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self.models = models
        self.writer = writer
        self.folders = list(folders)

    def check(self, upload: Any) -> str:
        """The message about a picture that was uploaded; empty if the picture can be used."""
        try:
            self._picture(upload)
        except DemoError as error:
            return rendering.problem(str(error))
        return ""

    def compare(self, upload: Any, typed: str) -> str:
        """The answer of the tab "Compare captions"."""
        try:
            return rendering.comparisons(self.models.compare(self._picture(upload), read_captions(typed)))
        except ValueError as error:  # also of a model whose embeddings are not finite
            return rendering.problem(str(error))

    def write(self, typed: str, seed: int) -> tuple[str | None, dict[str, str], int, str]:
        """Hard negatives by rules: the text field's new content, their kinds, the next seed, and a message."""
        try:
            made = self.writer.write(_one_caption(typed), seed)
        except DemoError as error:
            return None, {}, seed, rendering.problem(str(error))
        hint = "The rules do not see the picture: remove the lines that are true of it, then test."
        return "\n".join(made), made, seed + 1, rendering.hint(hint)

    def compose(
        self, upload: Any, typed: str, negatives: str, kinds: Mapping[str, str], seed: int
    ) -> tuple[str | None, dict[str, str], int, str]:
        """The answer of the tab "Composition". If no negatives were typed, the rules write them."""
        try:
            path, caption = self._picture(upload), _one_caption(typed)
            texts = read_captions(negatives, "hard negative")
            if not texts:
                kinds = self.writer.write(caption, seed)
                texts, seed = list(kinds), seed + 1
            answers = self.models.compose(path, caption, {text: kinds.get(text) for text in texts})
        except ValueError as error:
            return None, dict(kinds), seed, rendering.problem(str(error))
        return "\n".join(texts), dict(kinds), seed, rendering.compositions(answers)

    def _picture(self, upload: Any) -> str:
        return check_image(upload, self.folders)


def _one_caption(typed: str) -> str:
    captions = read_captions(typed)
    if not captions:
        raise DemoError("There is no caption: type what the picture shows.")
    if len(captions) > 1:
        raise DemoError("There are several captions: type one, and its hard negatives in their own field.")
    return captions[0]


def require_gradio() -> Any:
    """
    Import Gradio, with its telemetry switched off.

    Raises:
        ImportError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the demo needs Gradio: pip install "hf_tripletclip[demo]"') from error
    return gradio


def build_app(models: DemoModels, *, writer: NegativeWriter | None = None, examples: bool = True) -> Any:
    """
    Build the app.

    Args:
        models ([`DemoModels`]): One or two models.
        writer (`NegativeWriter`, *optional*): Writes hard negatives by rules.
        examples (`bool`, defaults to `True`): Whether to draw example pictures, if the extra `scenes` is installed.

    Returns:
        `gradio.Blocks`: Serve it with [`launch`], which sets limits and the style.

    Raises:
        ImportError: Gradio is not installed.
    """
    gr = require_gradio()
    writer = NegativeWriter() if writer is None else writer
    folder = tempfile.TemporaryDirectory(prefix="tripletclip-demo-")
    handlers = Handlers(models, writer, [gr.utils.get_upload_folder(), folder.name])
    drawn = draw_examples(Path(folder.name)) if examples else []

    with gr.Blocks(
        title="TripletCLIP demo",
        analytics_enabled=False,
        delete_cache=(KEEP_UPLOADS, KEEP_UPLOADS),
        fill_width=True,
    ) as app:
        app.example_folder = folder  # removed together with the app
        gr.HTML(_heading(models.names))
        with gr.Row(elem_id="tc-main"):
            with gr.Column(scale=3, min_width=300):
                image, status = _picture(gr)
                gallery = _gallery(gr, drawn)
            with gr.Column(scale=7, min_width=300), gr.Tabs():
                with gr.Tab("Compare captions"):
                    captions, compare, compared = _captions_tab(gr)
                with gr.Tab("Composition"):
                    caption, negatives, write, test, composed = _composition_tab(gr, writer)
        kinds, seed = gr.State({}), gr.State(0)

        quiet: dict[str, Any] = {"api_visibility": "private"}
        asked = quiet | {"concurrency_id": MODELS, "concurrency_limit": 1}
        # `check_image` decodes pictures: Gradio itself would apply other rules and fail without a message.
        image.upload(_refusing(gr, handlers.check), [image], [image, status], preprocess=False, **quiet)
        image.clear(lambda: "", None, [status], **quiet)
        compare.click(handlers.compare, [image, captions], [compared], preprocess=False, **asked)
        outputs = [negatives, kinds, seed, composed]
        for event in (test.click, caption.submit):
            event(
                _keeping(gr, handlers.compose), [image, caption, negatives, kinds, seed], outputs, preprocess=False,
                **asked,
            )  # fmt: skip
        write.click(_keeping(gr, handlers.write), [caption, seed], outputs, **asked)
        if gallery is not None:
            gallery.click(
                lambda index: _chosen(drawn[index]),
                [gallery],
                [image, captions, caption, negatives, kinds, status, compared, composed],
                **quiet,
            )
            app.load(None, js=_labels([example.caption for example in drawn]))
        for block in app.blocks.values():
            _forbid_downloads(gr, block)
    return app


def _forbid_downloads(gr: Any, block: Any) -> None:
    """Make a component refuse addresses in place of files: Gradio would download whatever a request names."""
    move = block.async_move_resource_to_block_cache

    async def move_local(path: Any) -> Any:
        if "://" in str(path):
            raise gr.Error(NO_PICTURE, print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = move_local


class _NoRelay:
    """ASGI middleware that refuses paths that name other servers: Gradio would fetch their files and pass them on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "://" in scope["path"]:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"Files of other servers are not passed on."})
            return
        await self.app(scope, receive, send)


def _refusing(gr: Any, check: Callable[[Any], str]) -> Callable[[Any], tuple[Any, str]]:
    """Wrap the check so that it clears the picture field if the picture cannot be used."""

    def checked(upload: Any) -> tuple[Any, str]:
        message = check(upload)
        return (None if message else gr.skip()), message

    return checked


def _keeping(gr: Any, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Wrap the function so that the text field keeps its content if the function returns `None` for it."""

    def kept(*inputs: Any) -> tuple[Any, ...]:
        first, *others = function(*inputs)
        return (gr.skip() if first is None else first, *others)

    return kept


def _chosen(example: Example) -> tuple[Any, ...]:
    both = f"{example.caption}\n{example.negative}"
    return example.path, both, example.caption, example.negative, {example.negative: example.kind}, "", "", ""


def _heading(names: Sequence[str]) -> str:
    models = " and ".join(f"<strong>{rendering.text(name)}</strong>" for name in names)
    return (
        '<header class="tc-heading"><h1>Which caption fits the picture?</h1>'
        f"<p>Scores of {models}. Give a picture and captions, or see which hard negatives of a caption "
        f"{'the models confuse' if len(names) > 1 else 'the model confuses'} with it.</p></header>"
    )


def _picture(gr: Any) -> tuple[Any, Any]:
    image = gr.Image(
        label="Picture",
        sources=["upload", "clipboard"],
        type="filepath",
        image_mode=None,
        height=300,
        buttons=["fullscreen"],
        placeholder=f"Drop or choose a picture\n{either(FORMATS)}\nup to {MAX_MEGABYTES} MB",
        alt_text="The picture that is scored",
        elem_id="tc-picture",
    )
    return image, gr.HTML(elem_id="tc-status")


def _gallery(gr: Any, drawn: Sequence[Example]) -> Any:
    if not drawn:
        return None
    return gr.Dataset(
        label="Examples",
        components=[gr.Image(render=False)],
        samples=[[example.path] for example in drawn],
        type="index",
        layout="gallery",
        elem_id="tc-examples",
    )


def _labels(names: Sequence[str]) -> str:
    """JavaScript that names the buttons of the examples for screen readers: they show only a picture."""
    return f"""() => {{
  const names = {json.dumps(list(names))};
  document.querySelectorAll("#tc-examples button").forEach((button, place) => {{
    button.setAttribute("aria-label", "Example " + (place + 1) + ": " + names[place]);
  }});
}}"""


def _captions_tab(gr: Any) -> tuple[Any, Any, Any]:
    captions = gr.Textbox(
        label="Captions, one per line",
        placeholder="a red cat on the left of a blue cup\na blue cat on the left of a red cup",
        lines=4,
        max_lines=12,
        elem_id="tc-captions",
    )
    button = gr.Button("Compare", variant="primary", elem_id="tc-compare")
    return captions, button, gr.HTML(elem_id="tc-compared")


def _composition_tab(gr: Any, writer: NegativeWriter) -> tuple[Any, Any, Any, Any, Any]:
    caption = gr.Textbox(
        label="Caption that is true of the picture",
        placeholder="a red cat on the left of a blue cup",
        lines=1,
        max_lines=3,
        elem_id="tc-caption",
    )
    negatives = gr.Textbox(
        label="Hard negatives, one per line",
        info="Almost the caption, but false of the picture." if writer.problem else
        "Almost the caption, but false of the picture. If the field is empty, rules write them.",
        lines=4,
        max_lines=12,
        elem_id="tc-negatives",
    )  # fmt: skip
    if writer.problem:
        gr.HTML(rendering.hint(f"Type hard negatives yourself: the rules need WordNet. {writer.problem}."))
    with gr.Row():
        write = gr.Button("Write by rules", interactive=writer.problem is None, elem_id="tc-write")
        test = gr.Button("Test", variant="primary", elem_id="tc-test")
    return caption, negatives, write, test, gr.HTML(elem_id="tc-composed")


def _theme(gr: Any) -> Any:
    """Gradio's default theme, with the system's fonts and with contrasts that are easy to read."""
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def launch(
    app: Any, *, host: str | None = "127.0.0.1", port: int | None = None, share: bool = False, block: bool = True
) -> str:
    """
    Serve the app, with limits on uploads, and without telemetry or other files from the network.

    Args:
        app (`gradio.Blocks`): The result of [`build_app`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): The address to listen at: `"0.0.0.0"` for the whole
            network, `None` for the value of `GRADIO_SERVER_NAME`, which a Hub Space sets.
        port (`int`, *optional*): Defaults to the first free port from 7860 on.
        share (`bool`, defaults to `False`): Whether to open a public address through Gradio's server.
        block (`bool`, defaults to `True`): Whether to wait until the server is stopped.

    Returns:
        `str`: The address of the page.

    Raises:
        OSError: The port is taken.
    """
    gr = require_gradio()
    from starlette.middleware import Middleware  # Gradio brings it along

    app.queue(max_size=MAX_WAITING, default_concurrency_limit=4)
    _, url, public = app.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=MAX_BYTES,
        theme=_theme(gr),
        css_paths=[STYLE],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        inline=False,
        app_kwargs={"middleware": [Middleware(_NoRelay)]},
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"The demo is at {public or url} (Ctrl-C stops it)", flush=True)
    if block:
        app.block_thread()
    return url
