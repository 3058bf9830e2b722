"""The command line: parse, call one function, print.

    python -m pipeline train --conv_layer coordconv2d --epochs 3
    python -m pipeline study --runs 5
    python -m pipeline evaluate --model_uri models:/stn-mnist@champion
    python -m pipeline predict three.png eight.jpg --show answer.png
    python -m pipeline compare
    python -m pipeline ui

Heavy imports stand inside the commands, so that `--help` answers at once. Each option is
accepted with underscores, as `mlflow run -P` passes it on, and with dashes.
"""

import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.params import StudyParams


class _Pipeline(click.Group):
    """Ends a command that failed on the user's input in one line, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(number, _interrupt)
        hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
        try:
            return super().invoke(context)
        except PipelineError as error:
            raise click.ClickException(str(error)) from error.__cause__
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        finally:
            sys.unraisablehook = hook


def _interrupt(number: int, frame: object) -> None:
    # `mlflow run` answers Ctrl-C with a SIGTERM to a command that is still closing its run;
    # a second Ctrl-C still ends one that hangs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat an interruption that Python has ignored.

    Python ignores each exception in a destructor or in the callback of a weak reference, and the
    interruption is raised wherever the main thread happens to be.
    """
    if not issubclass(ignored.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    main_thread = threading.main_thread().ident  # a signal to another one would not end its sleep
    timer = threading.Timer(0.1, signal.pthread_kill, [main_thread, signal.SIGINT])
    timer.daemon = True
    timer.start()


def _option(name: str, help: str, **settings: Any) -> Callable[..., Any]:
    spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
    return click.option(*spellings, name, help=help, **settings)


def _run_options(command: Callable[..., Any], of_study: bool = False) -> Callable[..., Any]:
    """An option for each parameter of a run, or also of a study; `params.py` checks the values."""
    from pipeline.params import RunParams, allowed_values

    for model in (StudyParams, RunParams) if of_study else (RunParams,):
        for name, field in reversed(model.model_fields.items()):
            default = "" if field.default is None else f", default: {field.default}"
            help = f"{field.description} (allowed: {allowed_values(name, model)}{default})"
            command = _option(name, help, metavar="VALUE")(command)
    return command


_model_uri = _option(
    "model_uri",
    "models:/stn-mnist@champion, models:/stn-mnist/3, models:/m-…, or runs:/<run id>/model",
    default="models:/stn-mnist@champion",
    show_default=True,
)
_experiment = _option(
    "experiment", "MLflow experiment; by default the one MLflow was told, else stn-mnist"
)


@click.group(cls=_Pipeline)
def main() -> None:
    """Train spatial transformer networks on MNIST, with and without CoordConv, and compare."""


@main.command()
@_run_options
def train(**given: str | None) -> None:
    """Train one network as one MLflow run, and register its best model.

    A preset for a study serves a single training as well: its runs, margin and other parameters of
    a study have no effect.
    """
    from pipeline.presets import resolve

    params = resolve({name: value for name, value in given.items() if value is not None})

    from pipeline.tracking.store import plain_errors
    from pipeline.training.run import run_training

    with plain_errors():
        done = run_training(params)
    for news in done.alias_news:
        click.echo(news)
    if done.collapsed:
        click.echo(f"the training has collapsed, {done.collapsed}")
    click.echo(f"all runs: {done.all_runs_url}")
    click.echo(
        f"run {done.run_id}: accuracy {done.accuracy:.2%}, macro F1 {done.f1:.2%} "
        f"(epoch {done.best_epoch}, selected on the {params.selection} set), "
        f"model version {done.version}, see {done.url}"
    )


@main.command()
@partial(_run_options, of_study=True)
def study(**given: str | None) -> None:
    """Train runs of each layer side by side, and compare them.

    With --until decided, the study stops as soon as each pair of layers has its verdict, at one of
    the looks that were planned before. Started again with the same parameters, a study continues.
    Any parameter of a run may be a comma list: --lr 0.01,0.02 trains both. Here the default of
    --conv_layer is the list of the project's layers, and that of --threads is --cpus_per_run.
    """
    from pipeline.study.plan import resolve_study

    plan = resolve_study({name: value for name, value in given.items() if value is not None})

    from pipeline.study.study import run_study
    from pipeline.tracking.store import plain_errors

    with plain_errors():
        done = run_study(plan)
    click.echo(done.markdown)
    for news in done.alias_news:
        click.echo(news)
    if done.stopped:
        click.echo(done.stopped)
    click.echo(f"all runs: {done.all_runs_url}")
    click.echo(f"run {done.run_id}: see {done.url}")


@main.command()
@_model_uri
@_option("data_dir", "folder that holds MNIST/raw/", default="data", show_default=True)
@_experiment
def evaluate(model_uri: str, data_dir: str, experiment: str | None) -> None:
    """Score a registered or logged model on the test set, as a run of its own."""
    from pipeline.evaluate import evaluate_model
    from pipeline.tracking.store import plain_errors

    with plain_errors():
        done = evaluate_model(model_uri, data_dir, experiment)
    if done.selection == "test":
        click.echo("the epoch was selected on this very test set: the scores are optimistic")
    click.echo(
        f"run {done.run_id}: accuracy {done.scores.accuracy:.2%}, macro F1 {done.scores.f1:.2%}, "
        f"loss {done.scores.loss:.4f} of {model_uri}, see {done.url}"
    )


@main.command()
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@_model_uri
@_option(
    "show",
    "draw each image, what the network got, and its probabilities into this file",
    metavar="FILE",
    type=click.Path(path_type=Path),
)
def predict(images: tuple[Path, ...], model_uri: str, show: Path | None) -> None:
    """Tell which digit each image file shows, dark on light or light on dark."""
    from pipeline.predict import predict_files
    from pipeline.tracking.store import plain_errors

    with plain_errors():
        predictions = predict_files(images, model_uri, show)
    for prediction in predictions:
        click.echo(f"{prediction.name}: {prediction.digit} ({prediction.probability:.1%})")


@main.command()
@_experiment
@_option(
    "by",
    "parameters to compare by, a comma list; by default conv_layer, with --study those that the "
    "study itself compares",
)
@_option(
    "margin",
    "differences up to this one, in percentage points, are treated as negligible",
    type=float,
    default=StudyParams.model_fields["margin"].default,
    show_default=True,
)
@_option("study", "only the runs of this study: its id, or how it begins")
def compare(experiment: str | None, by: str | None, margin: float, study: str | None) -> None:
    """Compare the finished training runs, layer by layer or by other parameters."""
    from pipeline.comparison.command import compare_runs
    from pipeline.tracking.store import plain_errors

    with plain_errors():
        done = compare_runs(experiment, by, margin, study)
    click.echo(done.markdown)
    click.echo(f"all runs: {done.all_runs_url}")
    click.echo(f"run {done.run_id}: see {done.url}")


@main.command()
def store() -> None:
    """Create the tables of a tracking store in a SQLite file, unless it has them.

    The other commands do so, too. But of several `mlflow run` that find no store, MLflow lets only
    one or none survive: there, this comes first.
    """
    from pipeline.tracking.store import ensure_store, plain_errors

    with plain_errors():
        ensure_store()


@main.command()
@_experiment
def ui(experiment: str | None) -> None:
    """Serve the MLflow UI on 127.0.0.1:5000, and say where the runs are."""
    from pipeline.tracking.store import plain_errors
    from pipeline.tracking.ui import serve_ui

    with plain_errors():
        serve_ui(experiment)
