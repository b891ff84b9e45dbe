# SPDX-License-Identifier: Apache-2.0
"""The command line: `tripletclip COMMAND`. It parses and dispatches; the work is done elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hf_tripletclip.utils.flag_parser import FlagParser
from hf_tripletclip.version import __version__


def run_reporting_errors(function: Callable[[], Any]) -> int:
    """
    Run a command; an error that its user can act on (`OSError`, `ValueError`, `ImportError`) becomes one message on
    standard error instead of a traceback. `TRIPLETCLIP_DEBUG=1` shows the traceback.

    Returns:
        `int`: The exit status: what the command returned if that is a number, else 0; 1 after an error, 130 after
        Ctrl-C.
    """
    try:
        status = function()
    except (OSError, ValueError, ImportError) as error:
        if os.environ.get("TRIPLETCLIP_DEBUG") == "1":
            raise
        sys.stderr.write(f"error: {_public(error)}\n")  # in one piece: several processes may say it at a time
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from hf_tripletclip.utils.files import as_os_error

        if os.environ.get("TRIPLETCLIP_DEBUG") == "1":
            raise
        if type(error).__name__ == "OutOfMemoryError":
            print(f"error: the device has not enough memory, lower the batch size: {error}", file=sys.stderr)
        elif as_os_error(error) is not None:  # tokenizers raises a full disk as a plain `Exception`
            sys.stderr.write(f"error: a file could not be written or read: {_public(error)}\n")
        else:
            raise
        return 1
    return status if isinstance(status, int) else 0


def _public(error: Exception) -> str:
    """The message of an error, which may quote a server, without keys."""
    import huggingface_hub

    from hf_tripletclip.utils.extras import explained
    from hf_tripletclip.utils.redact import redact

    if isinstance(error, ImportError):
        error = explained(error)
    return redact(str(error), huggingface_hub.get_token())


def _convert(options: argparse.Namespace) -> None:
    from hf_tripletclip.checkpoints import convert

    target = convert(
        options.source,
        options.target,
        to=options.to,
        hidden_act=options.hidden_act,
        processor=options.processor,
        with_processor=not options.no_processor,
        logit_scale=options.logit_scale,
        max_text_length=options.max_text_length,
        overwrite=options.overwrite,
        revision=options.revision,
    )
    print(f"wrote {target}")


def _require_config(command: str, argv: Sequence[str]) -> None:
    """Training from the defaults of transformers alone is not what anybody means."""
    from hf_tripletclip.utils.cli_arguments import ready_configs

    names = {argument.split("=")[0].replace("-", "_") for argument in argv}
    if not names & {"__config", "__help", "_h", "__print_config"}:
        raise ValueError(
            f"name a configuration: tripletclip {command} --config NAME_OR_FILE, with a YAML file or "
            f"{ready_configs(has='variants' if command == 'finetune' else 'objective')}"
        )


def _train(options: argparse.Namespace) -> None:
    _require_config("train", options.arguments)
    from hf_tripletclip.utils.cli_arguments import config_values

    if {"variants", "composition", "retention"} & config_values(options.arguments).keys():
        return _finetune(options)  # the configuration compares runs
    from hf_tripletclip.training.run import main as train

    train(options.arguments, prog="tripletclip train")


def _finetune(options: argparse.Namespace) -> None:
    _require_config("finetune", options.arguments)
    from hf_tripletclip.training.finetuning import main as finetune

    finetune(options.arguments, prog="tripletclip finetune")


def _generate(options: argparse.Namespace) -> None:
    from hf_tripletclip.generation.arguments import main as generate

    generate(options.arguments, prog="tripletclip generate")


def _mine(options: argparse.Namespace) -> None:
    from hf_tripletclip.mining.arguments import main as mine

    mine(options.arguments)


def _join(options: argparse.Namespace) -> None:
    from hf_tripletclip.joining.arguments import main as join

    join(options.arguments)


def _evaluate(options: argparse.Namespace) -> int:
    from hf_tripletclip.evaluation.arguments import main as evaluate

    return evaluate(options.arguments)


def _report(options: argparse.Namespace) -> int:
    from hf_tripletclip.evaluation.report.arguments import main as report

    return report(options.arguments)


def _columns(value: str | None) -> Any:
    return json.loads(value) if value is not None and value.lstrip().startswith("{") else value


def _validate(options: argparse.Namespace) -> int:
    from hf_tripletclip.data.validate import format_report, validate

    report = validate(
        options.dataset,
        split=options.split,
        columns=_columns(options.columns),
        images=options.images,
        num_workers=options.num_workers,
    )
    print(format_report(report))
    return report.exit_status()


def _inspect(options: argparse.Namespace) -> None:
    from hf_tripletclip.generation.inspect import inspect

    page = inspect(
        options.dataset,
        options.output,
        split=options.split,
        columns=_columns(options.columns),
        images=options.images,
        samples=options.samples,
    )
    print(f"wrote {page}")


def _push(options: argparse.Namespace) -> None:
    from hf_tripletclip.push import push

    url = push(
        options.folder,
        options.repo_id,
        base_model=options.base_model,
        license=options.license,
        private=True if options.private else None,
        revision=options.revision,
        create_pr=options.create_pr,
        commit_message=options.commit_message,
    )
    print(f"pushed to {url}")


def _demo(options: argparse.Namespace) -> None:
    from hf_tripletclip.demo.app import build_app, launch, require_gradio
    from hf_tripletclip.demo.scoring import DemoModels

    require_gradio()  # before models are loaded
    models = DemoModels.from_pretrained(options.models, device=options.device)
    launch(build_app(models), host=options.host, port=options.port, share=options.share)


def _merge(options: argparse.Namespace) -> None:
    import yaml

    from hf_tripletclip.evaluation.wise_ft import merge, parse_alphas

    curve, point = merge(
        options.base,
        options.tuned,
        options.output,
        alphas=parse_alphas(options.alpha),
        composition=options.composition,
        retention=options.retention,
        data=options.data,
        images=options.images,
        options=yaml.safe_load(options.options) if options.options else None,
        max_loss=options.max_loss,
        overwrite=options.overwrite,
        batch_size=options.batch_size,
        device=options.device,
        cache_dir=options.cache_dir,
        progress=not options.disable_tqdm,
    )
    print(curve.format_table(point))
    print(f"wrote alpha {point.alpha:g} to {options.output}")


# Commands that read their flags themselves: the function, the line in the list of commands, and the description.
OWN_FLAGS: dict[str, tuple[Callable[[argparse.Namespace], Any], str, str]] = {
    "train": (
        _train,
        "train a model: tripletclip train --config scenes",
        "Train a model; `tripletclip train --help` lists the flags.",
    ),
    "finetune": (
        _finetune,
        "fine-tune a model, and measure what it gains and loses: tripletclip finetune --config finetune_lora",
        "Fine-tune a model; `tripletclip finetune --help` lists the flags.",
    ),
    "generate": (
        _generate,
        "make hard negative captions and images for image-caption pairs",
        "Make a dataset of triplets; `tripletclip generate --help` lists the flags.",
    ),
    "mine": (
        _mine,
        "find hard negatives in a dataset itself, its nearest images and captions: tripletclip mine DATASET",
        "Mine hard negatives; `tripletclip mine --help` lists the flags.",
    ),
    "join": (
        _join,
        "join two pictures in each row, with their captions and a word exchanged: tripletclip join DATASET",
        "Join pairs, as CLIC's data; `tripletclip join --help` lists the flags.",
    ),
    "evaluate": (
        _evaluate,
        "evaluate models on benchmarks: tripletclip evaluate MODEL --benchmarks sugarcrepe --data DIR",
        "Evaluate CLIP-like models; `tripletclip evaluate --help` lists the flags.",
    ),
    "report": (
        _report,
        "write a page that compares results of evaluations",
        "Compare results; `tripletclip report --help` lists the flags.",
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = FlagParser(prog="tripletclip", description="CLIP models that understand composition.")
    parser.add_argument("--version", action="version", version=f"tripletclip {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    convert = commands.add_parser(
        "convert",
        help="write a checkpoint as a standard CLIP directory, or as an OpenCLIP one",
        description="Write a checkpoint, such as a published TripletCLIP one or an OpenCLIP one, as a standard CLIP "
        "directory that transformers opens, or as one that OpenCLIP opens. Private repositories use the token of "
        "`hf auth login` or HF_TOKEN.",
    )
    convert.add_argument("source", help="directory, Hub id, or an OpenCLIP weights file")
    convert.add_argument("target", help="directory to write")
    convert.add_argument(
        "--to", choices=("transformers", "openclip"), default="transformers", help="layout (default: transformers)"
    )
    convert.add_argument(
        "--hidden_act",
        choices=("gelu", "quick_gelu"),
        help="activation of an OpenCLIP source that does not name one: quick_gelu for OpenAI's weights and models "
        "tuned from them, gelu for models of OpenCLIP's own configs",
    )
    convert.add_argument(
        "--max_text_length", type=int, help="stretch the positions of the text tower, for captions of up to N tokens"
    )
    convert.add_argument("--revision", help="branch, tag or commit of the source")
    which = convert.add_mutually_exclusive_group()
    which.add_argument("--processor", help="directory or Hub id of the processor (default: the source's)")
    which.add_argument("--no_processor", action="store_true", help="write the model only")
    convert.add_argument("--logit_scale", type=float, help="the parameter `logit_scale`, if the source has none")
    convert.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    convert.set_defaults(run=_convert)

    for name, (run, summary, description) in OWN_FLAGS.items():
        command = commands.add_parser(name, help=summary, description=description, add_help=False)
        command.set_defaults(run=run, arguments=[])

    merge = commands.add_parser(
        "merge",
        help="weights between a base model and a tuned one: composition against what the base knew (WiSE-FT)",
        description="Measure the models between a base and what was tuned from it (WiSE-FT), draw the curve, and "
        "write the model with the most composition among those that keep what the base knew.",
    )
    merge.add_argument("base", help="directory or Hub id")
    merge.add_argument("tuned", help="directory or Hub id; may be a PEFT adapter of the base")
    merge.add_argument("--output", default="merged", help="directory to write (default: merged)")
    merge.add_argument(
        "--alpha", default="0.0:1.0:0.1", help="first:last:step, or numbers with commas (default: 0.0:1.0:0.1)"
    )
    merge.add_argument("--composition", default="triplets", help="benchmark or benchmark.metric (default: triplets)")
    merge.add_argument(
        "--retention", default="zeroshot", help="the same for what must not be lost (default: zeroshot)"
    )
    merge.add_argument("--data", nargs="+", help="one place for both benchmarks, or NAME=PLACE")
    merge.add_argument("--images", nargs="+", help="the same for the images of annotation files")
    merge.add_argument("--options", help="settings of the benchmarks, as JSON: name -> settings")
    merge.add_argument("--max_loss", type=float, default=0.01, help="how much retention may be lost (default: 0.01)")
    merge.add_argument("--batch_size", type=int, default=64, help="images or captions at a time (default: 64)")
    merge.add_argument("--device", help="where to evaluate (default: the accelerator)")
    merge.add_argument("--cache_dir", help="keep embeddings in this folder")
    merge.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    merge.add_argument("--disable_tqdm", action="store_true", help="show no progress bars")
    merge.set_defaults(run=_merge)

    validate = commands.add_parser(
        "validate",
        help="read a whole dataset and list what is broken",
        description="Read a whole dataset and list what is broken. The exit status is 1 if anything is.",
    )
    inspect = commands.add_parser(
        "inspect",
        help="write a page that shows a dataset: pairs, scores, filters, concepts",
        description="Write one HTML page that shows a triplet dataset.",
    )
    for command in (validate, inspect):
        command.add_argument("dataset", help="`scenes`, a folder or file, or the id of a Hub dataset")
        command.add_argument("--split", help="a split (default: all)")
        command.add_argument("--columns", help="a preset, or JSON: our column name -> the dataset's own")
        command.add_argument("--images", help="the folder of the images that paths in the rows name")
    validate.add_argument("--num_workers", type=int, help="processes that decode (default: the CPUs)")
    validate.set_defaults(run=_validate)
    inspect.add_argument("--output", default="inspect.html", help="the page to write (default: inspect.html)")
    inspect.add_argument("--samples", type=int, default=60, help="rows to show (default: 60)")
    inspect.set_defaults(run=_inspect)

    push = commands.add_parser(
        "push",
        help="upload a model, an adapter or a generated dataset to the Hub",
        description="Upload a folder to the Hub, with its card: a CLIP or a PEFT adapter that a training run, "
        "`tripletclip merge` or `convert` wrote, or a dataset that `tripletclip generate` or `mine` wrote. The token "
        "is that of `hf auth login` or HF_TOKEN.",
    )
    push.add_argument("folder", help="the folder of the model, adapter or dataset")
    push.add_argument("repo_id", help="such as user/name")
    push.add_argument(
        "--base_model", help="Hub id of what the model was made from; an adapter of a directory needs it"
    )
    push.add_argument(
        "--license", help="license of the model's weights, for its card: an identifier of the Hub such as mit"
    )
    push.add_argument("--private", action="store_true", help="make the repository private, if it is new")
    push.add_argument("--revision", help="branch to upload to, or the refs/pr/N of a pull request")
    push.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    push.add_argument("--commit_message", help="message of the commit (default: names what was uploaded)")
    push.set_defaults(run=_push)

    demo = commands.add_parser(
        "demo",
        help="try one or two models in a browser",
        description="Serve a page that scores captions for a picture, and shows which hard negatives of a caption a "
        "model confuses. Nothing leaves this machine unless --share is given.",
    )
    demo.add_argument(
        "models", nargs="+", metavar="MODEL", help="directory or Hub id, or ID@REVISION, or `scenes`; two are compared"
    )
    demo.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    demo.add_argument("--port", type=int, help="port (default: the first that is free from 7860 on)")
    demo.add_argument("--device", help="such as cuda:0 (default: the accelerator, or the CPU)")
    demo.add_argument("--share", action="store_true", help="also open a public address through Gradio's server")
    demo.set_defaults(run=_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if argv and argv[0] in OWN_FLAGS:
        options = parser.parse_args(argv[:1])
        options.arguments = argv[1:]
    else:
        options = parser.parse_args(argv)
    return run_reporting_errors(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
