# SPDX-License-Identifier: Apache-2.0
"""The Gradio app: the page, what its buttons do, and how it is served."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_tripletclip.demo import rendering
from hf_tripletclip.demo.examples import Example, draw_examples
from hf_tripletclip.demo.handlers import Handlers
from hf_tripletclip.demo.inputs import FORMATS, MAX_BYTES, MAX_MEGABYTES, NO_PICTURE, either
from hf_tripletclip.demo.negatives import NegativeWriter
from hf_tripletclip.demo.scoring import DemoModels

MAX_WAITING = 32  # questions in the queue; more are told to come back
KEEP_UPLOADS = 3_600  # seconds
STYLE = Path(__file__).with_name("style.css")
MODELS = "models"  # the queue that all questions to the models share


def require_gradio() -> Any:
    """
    Gradio, without its telemetry.

    Raises:
        ImportError: It is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the demo needs Gradio: pip install "hf_tripletclip[demo]"') from error
    return gradio


def build_app(models: DemoModels, *, writer: NegativeWriter | None = None, examples: bool = True) -> Any:
    """
    The app.

    Args:
        models ([`DemoModels`]): One or two models.
        writer (`NegativeWriter`, *optional*): Writes hard negatives by rules.
        examples (`bool`, defaults to `True`): Whether to draw example pictures, where the extra `scenes` is
            installed.

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
        app.example_folder = folder  # it goes when the app goes
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
        # Gradio would decode pictures itself, by other rules, and fail without a message: `check_image` does it.
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
    """Let a component take no address for a file: Gradio would download whatever a request names, for any field."""
    move = block.async_move_resource_to_block_cache

    async def move_local(path: Any) -> Any:
        if "://" in str(path):
            raise gr.Error(NO_PICTURE, print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = move_local


class _NoRelay:
    """ASGI middleware that refuses addresses of other servers, whose files Gradio would fetch and pass on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "://" in scope["path"]:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"Files of other servers are not passed on."})
            return
        await self.app(scope, receive, send)


def _refusing(gr: Any, check: Callable[[Any], str]) -> Callable[[Any], tuple[Any, str]]:
    """The check, which takes a picture away that cannot be used."""

    def checked(upload: Any) -> tuple[Any, str]:
        message = check(upload)
        return (None if message else gr.skip()), message

    return checked


def _keeping(gr: Any, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """The function, with what the text field holds kept where it returns `None` for it."""

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
    """JavaScript that names the buttons of the examples, which have a picture only, for screen readers."""
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
        "Almost the caption, but false of the picture. Left empty, they are written by rules.",
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
    """Gradio's own, with the system's fonts and with contrasts that are easy to read."""
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
    Serve the app, with limits on uploads and without telemetry or anything else from the network.

    Args:
        app (`gradio.Blocks`): What [`build_app`] made.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): The address to listen at: `"0.0.0.0"` for the whole
            network, `None` for what `GRADIO_SERVER_NAME` says, which a Hub Space sets.
        port (`int`, *optional*): Defaults to the first that is free from 7860 on.
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
