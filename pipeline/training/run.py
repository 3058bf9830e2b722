"""One training as one MLflow run: train, score the best epoch's model, log and register it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import yaml
from tqdm import tqdm

from pipeline.data import mnist
from pipeline.data.datasets import PLAIN
from pipeline.data.fixed_sets import VALIDATION_SEED, fixed_set, posed_test_set
from pipeline.data.mnist import Digits
from pipeline.errors import PipelineError
from pipeline.machine import continued, machine_tags
from pipeline.models.conv_layers import is_own, parts_of, source_of
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.names import model_aliases, protocol_label
from pipeline.params import RunParams
from pipeline.tracking.experiments import current_experiment
from pipeline.tracking.patience import StoreAway, patience
from pipeline.tracking.recorded import recorded_run
from pipeline.tracking.registry import AliasNews, Candidate, promote, register
from pipeline.tracking.runs import TrackedRun, open_run, reopen_run
from pipeline.tracking.store import ensure_store, first_line
from pipeline.tracking.vocabulary import Artifact, Tag
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.collapse import IMAGES, collapse_reason
from pipeline.training.log_model import TrainedModel, log_selected_model
from pipeline.training.loop import train
from pipeline.training.network import build_network, check_network
from pipeline.training.optimization import averaged_model
from pipeline.training.poses import eight_poses
from pipeline.training.recorder import EpochRecorder
from pipeline.training.unfinished import SingleTraining, single_training

_NO_MEMORY = "can't allocate memory"  # of torch's error on a CPU


@dataclass(frozen=True)
class RunOfStudy:
    """A run that a study has created for a training, which may have begun already.

    checkpoint_file: where the training's checkpoint is, or will be.
    protocol_label: see `names.protocol_label`.
    share_checkpoint: called with the file whenever it has been saved.
    """

    run_id: str
    checkpoint_file: Path
    protocol_label: str
    share_checkpoint: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class RunSummary:
    """The results of a finished run; accuracy and macro F1 as fractions, on the test set.

    all_runs_url: the address of the list of all runs.
    collapsed: the epoch in which the training collapsed, and why; empty if it has not.
    """

    run_id: str
    url: str
    all_runs_url: str
    best_epoch: int
    accuracy: float
    f1: float
    collapsed: str
    version: int
    alias_news: list[AliasNews]


def run_training(params: RunParams, run_of_study: RunOfStudy | None = None) -> RunSummary:
    """Train one network as one MLflow run, and register the model of its best epoch.

    The epochs' test accuracy is measured on one pose of each test image; the selected model is
    scored on all its poses.

    It saves a checkpoint after each epoch, and continues from the one of an interrupted training:
    in a study, of the run that the study has created; else, of one with the same parameters. In a
    study, it prints nothing, and leaves the aliases to the study.

    Raises:
        PipelineError: on unusable data, device or store, if training diverges, if the memory does
            not suffice, or if a user's own layer ends the program.
    """
    ensure_store()
    device = _device(params.device)
    torch.set_num_threads(params.threads or torch.get_num_threads())
    check_network(params)
    train_digits, test_digits = mnist.load_mnist(params.data_dir)
    # `single_training` removes the checkpoint on a PipelineError. `_plain_faults` stands outside
    # it, so that too little memory does not cost the checkpoint.
    with _plain_faults(params), ExitStack() as stack:
        training = run_of_study or stack.enter_context(_single_training(params))
        run = stack.enter_context(_open(params, device, training))
        # first, so that a place that cannot be written is noticed before anything is trained
        run.log_artifacts(_files_of_params(params))
        trained = _train(
            run,
            params,
            device=device,
            train_digits=train_digits,
            test_digits=test_digits,
            training=training,
        )
        test = posed_test_set(params.dataset, test_digits, train_digits.images)
        del train_digits  # the export of the model needs the memory
        _log_digits(run, params.dataset, "testing", test.digits)
        scores, model_id = log_selected_model(run, params, trained, test)
        best = trained.state.best
        candidate = Candidate(params.selection_set, best.accuracy, best.loss)
        version = register(model_id, candidate)
    news: list[AliasNews] = []
    training.checkpoint_file.unlink(missing_ok=True)
    if run_of_study is None:
        aliases = model_aliases(params.conv_layer, params.dataset)
        # Only the model of a run that has ended as FINISHED may become champion.
        with patience(params.store_patience):
            news = promote(version, candidate, aliases)
    return RunSummary(
        run_id=run.run_id,
        url=run.url,
        all_runs_url=run.all_runs_url,
        best_epoch=best.epoch,
        accuracy=scores.accuracy,
        f1=scores.f1,
        collapsed=trained.collapsed,
        version=version,
        alias_news=news,
    )


@contextmanager
def _single_training(params: RunParams) -> Iterator[SingleTraining]:
    """A training that belongs to no study, which may go on; an outage's error says how."""
    try:
        with single_training(params, current_experiment(params.experiment)) as training:
            yield training
    except StoreAway as error:
        raise StoreAway(f"{error}; the same command goes on from the checkpoint") from error


@contextmanager
def _plain_faults(params: RunParams) -> Iterator[None]:
    """Turn what else may end a training into a PipelineError: too little memory, and an exit."""
    try:
        yield
    except SystemExit as error:
        raise PipelineError(
            f"conv_layer: {params.conv_layer} has ended the program (SystemExit: {error}); a layer "
            "must raise another exception, or return a tensor"
        ) from error
    except (MemoryError, RuntimeError) as error:  # torch's own errors are RuntimeErrors
        text = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and _NO_MEMORY not in text:
            raise
        raise PipelineError(
            f"the memory does not suffice; use a smaller batch_size (now {params.batch_size}), or "
            f"fewer trainings at the same time: {first_line(error)}"
        ) from error


def _open(
    params: RunParams, device: torch.device, training: RunOfStudy | SingleTraining
) -> AbstractContextManager[TrackedRun]:
    """The run, open: a new one, or the one that has begun already."""
    of_study = training if isinstance(training, RunOfStudy) else None
    label = of_study.protocol_label if of_study else protocol_label(params)
    earlier_tags = recorded_run(training.run_id).tags if training.run_id else {}
    description = _description(params, label)
    values = params.model_dump(exclude_none=True)
    tags = {
        Tag.PROTOCOL: label,
        Tag.SELECTION: params.selection,
        Tag.DATA_DIGEST: mnist.DIGEST,
        # `mlflow run` has logged the parameter as it was typed, without the digest
        **({Tag.CONV_LAYER: params.conv_layer} if is_own(params.conv_layer) else {}),
        **continued(earlier_tags, machine_tags(str(device))),
        **({Tag.TRAINING: training.name} if isinstance(training, SingleTraining) else {}),
    }
    if training.run_id:
        return reopen_run(
            training.run_id,
            description,
            params=values,
            tags=tags,
            store_patience=params.store_patience,
        )
    return open_run(
        _name(params),
        description,
        experiment=params.experiment,
        params=values,
        tags=tags,
        store_patience=params.store_patience,
    )


def _train(
    run: TrackedRun,
    params: RunParams,
    *,
    device: torch.device,
    train_digits: Digits,
    test_digits: Digits,
    training: RunOfStudy | SingleTraining,
) -> TrainedModel:
    """Train a network on MNIST's digits, recording each epoch in the run."""
    of_study = training if isinstance(training, RunOfStudy) else None
    checkpoint = load_checkpoint(training.checkpoint_file)
    if checkpoint and not of_study:
        print(
            f"run {run.run_id} was interrupted after epoch {checkpoint.state.epoch} and goes on; "
            f"to begin anew instead, stop it and remove {training.checkpoint_file}"
        )
    train_set, test_set, validation_set = _sets(run, params, train_digits, test_digits)
    selection_set = test_set if validation_set is None else validation_set

    torch.manual_seed(params.seed)
    network = build_network(params)
    network.to(device).to(memory_format=torch.channels_last)
    averaged = averaged_model(network, params)
    evaluated = network if averaged is None else cast(SpatialTransformerNetwork, averaged.module)
    poses = eight_poses(params.dataset, test_digits, train_digits.images)
    # a study shows the progress of its trainings itself
    disable = True if of_study else None  # None: where the output is no terminal
    epochs_before = checkpoint.state.epoch if checkpoint else 0
    with tqdm(
        total=params.planned_epochs, initial=epochs_before, unit="epoch", disable=disable
    ) as bar:
        recorder = EpochRecorder(
            run,
            evaluated,
            params,
            poses=poses,
            collapse_reason=partial(
                collapse_reason,
                evaluated,
                params,
                train_labels=train_set.labels,
                images=selection_set.images[:IMAGES],
            ),
            bar=bar,
            checkpoint_file=training.checkpoint_file,
            quiet=of_study is not None,
            share_checkpoint=of_study.share_checkpoint if of_study else None,
            resume_from=checkpoint,
        )
        state = train(
            network,
            train_set.to(device),
            test_set.to(device),
            params,
            averaged=averaged,
            validation_set=None if validation_set is None else validation_set.to(device),
            on_epoch_end=recorder.record,
            resume_from=checkpoint.state if checkpoint else None,
        )
    network.load_state_dict(state.best.weights)
    network.to("cpu").to(memory_format=torch.contiguous_format)  # which the export needs
    return TrainedModel(network.eval(), state, poses, recorder.frames, recorder.collapsed)


def _sets(
    run: TrackedRun, params: RunParams, train_digits: Digits, test_digits: Digits
) -> tuple[Digits, Digits, Digits | None]:
    """The training, test and validation set; the last two are distorted, in one pose per image."""
    clutter = train_digits.images
    test_set = fixed_set(params.dataset, test_digits, clutter).digits
    validation_set = None
    if params.validation_size:
        train_digits, held_out = mnist.split_validation(
            train_digits, params.validation_size, params.seed
        )
        validation_set = fixed_set(params.dataset, held_out, clutter, seed=VALIDATION_SEED).digits
        _log_digits(run, params.dataset, "validation", validation_set)
    _log_digits(run, PLAIN, "training", train_digits)  # each batch is distorted anew
    return train_digits, test_set, validation_set


def _files_of_params(params: RunParams) -> dict[str, str | bytes]:
    """The parameters, and the source of a user's own layer, by file name."""
    files: dict[str, str | bytes] = {
        Artifact.PARAMS: yaml.safe_dump(params.model_dump(), sort_keys=False)
    }
    if is_own(params.conv_layer):
        source = source_of(parts_of(params.conv_layer)[0])
        files[source.file.name] = source.content
    return files


def _log_digits(run: TrackedRun, dataset: str, context: str, digits: Digits) -> None:
    run.log_dataset(f"{dataset}-{context}", context, digits.images.numpy(), digits.labels.numpy())


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device: got 'cuda', but torch finds no GPU; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _name(params: RunParams) -> str:
    """`coordconv2d seed=3`; architecture and data set are named unless they are the defaults."""
    usual = ("stn-c0", PLAIN)
    kind = [word for word in (params.architecture, params.dataset) if word not in usual]
    return " ".join([params.conv_layer, *kind, f"seed={params.seed}"])


def _description(params: RunParams, label: str) -> str:
    caution = (
        "The best epoch is selected on the test set, so `best_test_accuracy` is optimistic."
        if params.selection == "test"
        else f"The best epoch is selected on {params.validation_size:,} validation images."
    )
    place = f"({params.transform}) with **{params.conv_layer}** in the localization network"
    if params.architecture == "cnn":
        place = f"with **{params.conv_layer}**, without a transformer,"
    return (
        f"**{params.architecture}** {place} on *{params.dataset}* digits, "
        f"protocol *{label}*, seed {params.seed}. {caution}"
    )
