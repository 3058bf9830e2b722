"""One tracked run: train, measure the best epoch's model, draw, log, register."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from pipeline.data import mnist
from pipeline.data.batches import normalize
from pipeline.data.datasets import DATASETS, PLAIN
from pipeline.data.fixed_sets import VALIDATION_SEED, Posed, fixed_set, posed_test_set
from pipeline.data.mnist import Digits
from pipeline.errors import PipelineError
from pipeline.figures.animation import animation, is_frame
from pipeline.figures.of_run import before_after_figure, learning_curves_figure
from pipeline.machine import continued, machine_tags
from pipeline.models.build import build_model
from pipeline.models.conv_layers import is_own, parts_of, source_of
from pipeline.models.layer_class import check_export
from pipeline.models.portable import PortableModel
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.models.transforms import TRANSFORMS
from pipeline.params import RunParams, model_aliases, protocol_label
from pipeline.tracking.recorded import recorded_run
from pipeline.tracking.registry import AliasNews, Candidate, promote, register
from pipeline.tracking.runs import TrackedRun, open_run
from pipeline.tracking.store import check_store
from pipeline.tracking.vocabulary import Artifact, Metric, Tag
from pipeline.training.loop import EVALUATION_BATCH, BestEpoch, Checkpoint, train
from pipeline.training.metrics import Scores, pose_deviation, score, score_files
from pipeline.training.poses import caption, eight_poses, poses_file, transformed


@dataclass(frozen=True)
class StudyRun:
    """A run that a study has created, where its checkpoint is or will be, and its protocol."""

    run_id: str
    checkpoint: Path
    protocol: str


@dataclass(frozen=True)
class RunSummary:
    """What a finished run came to; accuracy and macro F1 as fractions, on the test set."""

    run_id: str
    url: str
    best_epoch: int
    accuracy: float
    f1: float
    version: int
    alias_news: list[AliasNews]


def run_training(params: RunParams, study_run: StudyRun | None = None) -> RunSummary:
    """Train one network as one MLflow run; see design.md's vocabulary for what is logged.

    The epochs' test accuracy is that of one pose of each test image; the selected model is scored
    on all its poses.

    As part of a study, the training goes on from its checkpoint, if there is one, and saves one
    after each epoch. Its epochs are not printed, and aliases are left to the study.

    Raises:
        PipelineError: on unusable data, device or store, or if training diverges.
    """
    check_store()
    device = _device(params.device)
    torch.set_num_threads(params.threads or torch.get_num_threads())
    check_network(params)
    train_digits, test_digits = mnist.load_mnist(params.data_dir)

    protocol = study_run.protocol if study_run else protocol_label(params)
    before = recorded_run(study_run.run_id).tags if study_run else {}
    with open_run(
        name=_name(params),
        description=_description(params, protocol),
        experiment=params.experiment,
        params=params.model_dump(exclude_none=True),
        tags={
            Tag.PROTOCOL: protocol,
            Tag.SELECTION: params.selection,
            Tag.DATA_DIGEST: mnist.DIGEST,
            # `mlflow run` has logged the parameter as it was typed, without the digest
            **({Tag.CONV_LAYER: params.conv_layer} if is_own(params.conv_layer) else {}),
            **continued(before, machine_tags(str(device))),
        },
        run_id=study_run.run_id if study_run else None,
    ) as run:
        run.log_artifacts(_source_files(params))
        checkpoint = _load(study_run.checkpoint) if study_run else None
        clutter = train_digits.images
        one_pose = fixed_set(params.dataset, test_digits, clutter).digits
        validation_digits = None
        if params.validation_size:
            train_digits, validation_digits = mnist.split_validation(
                train_digits, params.validation_size, params.seed
            )
            validation_digits = fixed_set(
                params.dataset, validation_digits, clutter, seed=VALIDATION_SEED
            ).digits
            _log_digits(run, params.dataset, "validation", validation_digits)
        _log_digits(run, PLAIN, "training", train_digits)  # each batch is distorted anew

        torch.manual_seed(params.seed)
        model = _network(params)
        model.to(device).to(memory_format=torch.channels_last)
        history: list[dict[str, float]] = []
        poses = eight_poses(params.dataset, test_digits, clutter)
        frames: dict[int, Tensor] = {}  # what the transformer makes of them, by epoch
        if model.transformer is not None:
            frames[0] = transformed(model.eval(), params, poses)[0]
        if checkpoint:
            frames = checkpoint.get("frames", frames)  # of an earlier version it has none
            history += checkpoint["history"]
            # killed between the checkpoint and the store, a run may lack its last epoch there
            for epoch in range(run.logged_epochs() + 1, len(history) + 1):
                run.log_metrics(history[epoch - 1], step=epoch)
            run.drop_models()

        epochs = params.planned_epochs
        with tqdm(total=epochs, unit="epoch", disable=True if study_run else None) as bar:

            def on_checkpoint(state: Checkpoint) -> None:
                epoch = len(state["history"])
                if model.transformer is not None and is_frame(epoch, epochs):
                    frames[epoch] = transformed(model, params, poses)[0]
                if study_run:
                    _save(study_run.checkpoint, {**state, "frames": frames})

            def on_epoch_end(epoch: int, metrics: dict[str, float]) -> None:
                run.log_metrics(metrics, step=epoch)
                history.append(metrics)
                if study_run:
                    return
                bar.update()
                bar.write(
                    f"epoch {epoch}/{epochs}: train loss {metrics[Metric.TRAIN_LOSS]:.4f}, "
                    f"test accuracy {metrics[Metric.TEST_ACCURACY]:.2%}, "
                    f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
                )

            best = train(
                model,
                train_digits.to(device),
                one_pose.to(device),
                params,
                validation_digits and validation_digits.to(device),
                on_epoch_end,
                on_checkpoint,
                checkpoint,
            )

        model.load_state_dict(best.weights)
        model.to("cpu").to(memory_format=torch.contiguous_format)  # as a pt2 archive wants it
        test = posed_test_set(params.dataset, test_digits, clutter)
        del train_digits, clutter  # the export of the model needs the memory
        _log_digits(run, params.dataset, "testing", test.digits)
        data = DATASETS[params.dataset]
        portable = PortableModel(model, data.mean, data.std).eval().requires_grad_(False)
        scores = _score(portable, test.digits)
        run.log_artifacts(_artifacts(params, model.eval(), test.digits, scores, history, best))
        if model.transformer is not None:
            run.log_artifacts(
                {
                    Artifact.POSES: poses_file(model, params, poses),
                    Artifact.TRANSFORMER: animation(
                        poses.squeeze(1).numpy(),
                        {epoch: frame.squeeze(1).numpy() for epoch, frame in frames.items()},
                        caption(model),
                    ),
                }
            )
        model_id = run.log_model(portable, test.digits.images[:4].numpy(), best.epoch)
        best_metrics = {
            Metric.BEST_TEST_ACCURACY: scores.accuracy,
            Metric.BEST_TEST_F1: scores.f1,
            Metric.BEST_TEST_LOSS: scores.loss,
            Metric.BEST_EPOCH: best.epoch,
            **_pose_metric(params, model, test),
        }
        if not recorded_run(run.run_id).has_results:  # killed just after that
            run.log_metrics(best_metrics, step=best.epoch, model_id=model_id)
        candidate = Candidate(params.selection_set, best.accuracy, best.loss)
        version = register(model_id, candidate)
    # Only the model of a run that has ended as FINISHED may become champion.
    news: list[AliasNews] = []
    if study_run:
        study_run.checkpoint.unlink(missing_ok=True)
    else:
        aliases = model_aliases(params.conv_layer, params.dataset)
        news = promote(version, candidate, aliases)
    return RunSummary(run.run_id, run.url, best.epoch, scores.accuracy, scores.f1, version, news)


def _log_digits(run: TrackedRun, dataset: str, context: str, digits: Digits) -> None:
    run.log_dataset(f"{dataset}-{context}", context, digits.images.numpy(), digits.labels.numpy())


def _name(params: RunParams) -> str:
    """`coordconv2d seed=3`, or `conv2d stn-c1 rotated seed=3`: with what is not usual."""
    usual = ("stn-c0", PLAIN)
    kind = [word for word in (params.architecture, params.dataset) if word not in usual]
    return " ".join([params.conv_layer, *kind, f"seed={params.seed}"])


def check_network(params: RunParams) -> None:
    """Raises PipelineError where the parameters of the network do not go together.

    A network with a user's own layer must also be fit for export, as it will be registered.
    """
    with torch.random.fork_rng(devices=[]):  # the run's random state must not advance
        network = _network(params)
        if is_own(params.conv_layer):
            check_export(network, params.conv_layer, DATASETS[params.dataset].size)


def _source_files(params: RunParams) -> dict[str, bytes]:
    """The source of a user's own layer, by file name; empty for a layer of ours."""
    if not is_own(params.conv_layer):
        return {}
    source = source_of(parts_of(params.conv_layer)[0])
    return {source.file.name: source.content}


def _network(params: RunParams) -> SpatialTransformerNetwork:
    return build_model(
        conv_layer=params.conv_layer,
        layer_settings=params.layer_settings,
        padding_mode=params.padding_mode,
        image_size=DATASETS[params.dataset].size,
        batch_norm=params.batch_norm,
        architecture=params.architecture,
        transform=params.transform,
        transformer_iterations=params.transformer_iterations,
        sampler_size=params.sampler_size,
        network=params.network,
    )


def _save(path: Path, checkpoint: Checkpoint) -> None:
    # under another name first: a process that is killed here leaves the last whole one
    partial_file = path.with_suffix(".tmp")
    try:
        with partial_file.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, path)
    finally:
        partial_file.unlink(missing_ok=True)


def _load(path: Path) -> Checkpoint | None:
    return torch.load(path, weights_only=True) if path.exists() else None


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device: got 'cuda', but torch finds no GPU; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@torch.inference_mode()
def _score(portable: PortableModel, digits: Digits) -> Scores:
    probabilities = [portable(images) for images in digits.images.split(EVALUATION_BATCH)]
    return score(digits.labels.numpy(), torch.cat(probabilities).numpy())


@torch.inference_mode()
def _artifacts(
    params: RunParams,
    model: SpatialTransformerNetwork,
    test_digits: Digits,
    scores: Scores,
    history: list[dict[str, float]],
    best: BestEpoch,
) -> dict[str, object]:
    artifacts: dict[str, object] = {
        Artifact.PARAMS: yaml.safe_dump(params.model_dump(), sort_keys=False),
        **score_files(scores),
        Artifact.PREDICTIONS: _predictions(test_digits.labels.numpy(), scores.predicted),
        Artifact.LEARNING_CURVES: learning_curves_figure(history, best.epoch),
    }
    if model.transformer is not None:
        shown = test_digits.images[:64]
        after, _ = transformed(model, params, shown)
        artifacts[Artifact.BEFORE_AFTER] = before_after_figure(
            shown.squeeze(1).numpy(), after.squeeze(1).numpy(), caption(model)
        )
    return artifacts


@torch.inference_mode()
def _pose_metric(
    params: RunParams, model: SpatialTransformerNetwork, test: Posed
) -> dict[str, float]:
    """How much the digits' pose still varies after the transformer, where both are known."""
    if test.pose is None or model.transformer is None or not TRANSFORMS[params.transform].matrix:
        return {}
    matrices = [
        model.matrix(normalize(params.dataset, images)).flatten(1)
        for images in test.digits.images.split(EVALUATION_BATCH)
    ]
    deviation = pose_deviation(
        params.dataset,
        poses=test.pose.numpy(),
        theta=torch.cat(matrices).numpy(),
        labels=test.digits.labels.numpy(),
    )
    return {Metric.POSE_DEVIATION: deviation}


def _predictions(labels: np.ndarray, predicted: np.ndarray) -> str:
    """One line per test image, in order: what it is, and what it was taken for."""
    lines = [f"{label},{digit}" for label, digit in zip(labels, predicted, strict=True)]
    return "\n".join(["label,predicted", *lines, ""])


def _description(params: RunParams, protocol: str) -> str:
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
        f"protocol *{protocol}*, seed {params.seed}. {caution}"
    )
