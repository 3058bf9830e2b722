import copy
import math

import pytest
import torch

from pipeline.data.batches import normalize
from pipeline.data.mnist import Digits
from pipeline.errors import PipelineError
from pipeline.models.conv_layers import CONV_LAYERS
from pipeline.params import RunParams
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.loop import evaluate, train
from pipeline.training.network import build_network
from pipeline.training.optimization import averaged_model


def fit(some_digits, conv_layer="conv2d", validation=None, **settings):
    """Train on real digits; the best epoch, the metrics of all epochs, the model."""
    params = RunParams(conv_layer=conv_layer, **settings)
    torch.manual_seed(params.seed)
    model = build_network(params).to(memory_format=torch.channels_last)
    state = train(model, *some_digits, params, validation_set=validation)
    return state.best, state.history, model


@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
def test_training_learns_real_digits(some_digits, conv_layer):
    best, history, _ = fit(some_digits, conv_layer, epochs=8, lr=0.05, batch_size=32)
    assert best.accuracy > 0.4  # chance is 0.1
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
def test_a_seed_repeats_bit_by_bit_and_another_does_not(some_digits, conv_layer):
    def weights(seed):
        return torch.cat(
            [p.flatten() for p in fit(some_digits, conv_layer, epochs=2, seed=seed)[2].parameters()]
        )

    first = weights(3)
    assert torch.equal(weights(3), first)
    assert not torch.equal(weights(4), first)


def test_the_learning_rate_is_halved_every_step(some_digits):
    _, history, _ = fit(some_digits, epochs=5, lr=0.08, lr_step=2, lr_gamma=0.5, batch_size=500)
    assert [m["learning_rate"] for m in history] == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])


def test_iterations_end_the_training_within_an_epoch_and_decay_the_learning_rate_by_hand(
    some_digits,
):
    """4 steps an epoch: 10 steps are two and a half epochs, with decays after steps 3, 6 and 9."""
    train_set, test_set = some_digits
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    by_hand = copy.deepcopy(model)
    params = RunParams(
        iterations=10, lr=0.08, lr_step_iterations=3, lr_gamma=0.5, batch_size=500, epochs=1
    )
    torch.manual_seed(0)
    history = train(model, train_set, test_set, params).history
    rates = [metrics["learning_rate"] for metrics in history]
    assert rates == pytest.approx([0.08, 0.04, 0.02])

    torch.manual_seed(0)
    order = torch.cat([torch.randperm(2000) for _ in range(3)])
    for step, chosen in enumerate(order.split(500)[:10]):
        images = normalize("mnist", train_set.images[chosen])
        torch.nn.functional.cross_entropy(by_hand(images), train_set.labels[chosen]).backward()
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= 0.08 * 0.5 ** (step // 3) * parameter.grad
        by_hand.zero_grad()
    torch.testing.assert_close(model[1].weight, by_hand[1].weight)


def test_cosine_schedule_label_smoothing_weight_decay_and_average_by_hand(some_digits):
    """4 steps an epoch, 2 epochs; the network that is evaluated is the averaged one."""
    train_set, test_set = some_digits
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    by_hand = copy.deepcopy(model)
    smoothing, decay, ema_decay = 0.1, 0.01, 0.7
    params = RunParams(
        epochs=2,
        lr=0.08,
        schedule="cosine",
        batch_size=500,
        label_smoothing=smoothing,
        weight_decay=decay,
        ema_decay=ema_decay,
    )
    averaged = averaged_model(model, params)
    torch.manual_seed(0)
    state = train(model, train_set, test_set, params, averaged=averaged)

    rates = [0.08 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert [m["learning_rate"] for m in state.history] == pytest.approx([rates[0], rates[4]])

    torch.manual_seed(0)
    order = torch.cat([torch.randperm(2000) for _ in range(2)])
    average = None
    for rate, chosen in zip(rates, order.split(500), strict=True):
        logits = by_hand(normalize("mnist", train_set.images[chosen]))
        targets = torch.nn.functional.one_hot(train_set.labels[chosen], 10)
        targets = (1 - smoothing) * targets + smoothing / 10
        (-(targets * logits.log_softmax(1)).sum(1).mean()).backward()
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= rate * (parameter.grad + decay * parameter)
        by_hand.zero_grad()
        now = by_hand[1].weight.detach().clone()
        average = now if average is None else ema_decay * average + (1 - ema_decay) * now
    torch.testing.assert_close(model[1].weight, by_hand[1].weight)
    torch.testing.assert_close(averaged.module[1].weight, average)
    assert evaluate(averaged.module, test_set, "mnist") == (
        state.history[-1]["test_loss"],
        state.history[-1]["test_accuracy"],
    )


def test_one_step_of_sgd_by_hand(some_digits):
    """Momentum 0: the weights move by lr times the gradient of the mean cross-entropy."""
    train_set, test_set = some_digits
    one = Digits(train_set.images[:8], train_set.labels[:8])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    before = model[1].weight.detach().clone()
    torch.nn.functional.cross_entropy(model(normalize("mnist", one.images)), one.labels).backward()
    gradient = model[1].weight.grad.clone()
    model.zero_grad()
    train(model, one, test_set, RunParams(epochs=1, lr=0.05, batch_size=8))
    torch.testing.assert_close(model[1].weight.detach(), before - 0.05 * gradient)


class Scripted(torch.nn.Module):
    """Predicts right on as many of the evaluation images as the script says for each epoch."""

    def __init__(self, script):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.script = script
        self.evaluations = -1

    def forward(self, images):
        logits = torch.zeros(len(images), 10) + self.weight
        if not self.training:
            self.evaluations += 1
            logits[: self.script[self.evaluations], 0] = 1
            logits[self.script[self.evaluations] :, 1] = 1
        return logits


def zeros(count):
    return Digits(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long))


def test_the_best_epoch_has_the_highest_test_accuracy_and_a_tie_goes_to_the_later():
    best = train(Scripted([5, 8, 6, 8, 7]), zeros(4), zeros(10), RunParams(epochs=5)).best
    assert (best.epoch, best.accuracy) == (4, 0.8)


def test_with_a_validation_set_the_test_set_has_no_say():
    model = Scripted([9, 3, 5, 7, 9, 5])  # test, validation, test, validation, …
    best = train(model, zeros(4), zeros(10), RunParams(epochs=3), validation_set=zeros(10)).best
    assert (best.epoch, best.accuracy) == (2, 0.7)


def test_the_best_weights_are_those_of_the_best_epoch(some_digits):
    best, history, model = fit(some_digits, epochs=4, lr=0.1, batch_size=32)
    model.load_state_dict(best.weights)
    loss, accuracy = evaluate(model, some_digits[1], "mnist")
    assert accuracy == best.accuracy == max(m["test_accuracy"] for m in history)
    assert loss == pytest.approx(best.loss)


def test_the_train_loss_is_the_mean_over_all_images_of_the_epoch():
    # 10 images in batches of 4: a mean over batches would weigh the last two images double
    images = (25 * torch.arange(10)).to(torch.uint8).view(10, 1, 1, 1)
    labels = (torch.arange(10) > 7).long()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 10))
    params = RunParams(epochs=1, batch_size=4, lr=1e-12)
    (metrics,) = train(model, Digits(images, labels), zeros(3), params).history
    with torch.no_grad():
        logits = model(normalize("mnist", images))
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["train_accuracy"] == (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
def test_a_transformer_that_lost_its_way_does_not_crash_the_process(
    some_digits, padding_mode, value
):
    model = build_network(RunParams(padding_mode=padding_mode))
    with torch.no_grad():
        model.transformer.localization[-1].bias.fill_(value)
    logits = model(normalize("mnist", some_digits[0].images[:64]))
    torch.nn.functional.cross_entropy(logits, some_digits[0].labels[:64]).backward()


def test_a_diverging_run_ends_with_what_to_do(some_digits):
    with pytest.raises(PipelineError, match=r"diverged in epoch 1.*smaller lr"):
        fit(some_digits, epochs=3, lr=1e30)


@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
@pytest.mark.parametrize("by_epochs", [True, False])
def test_a_training_that_goes_on_from_its_checkpoint_is_the_same_bit_by_bit(
    some_digits, tmp_path, conv_layer, by_epochs
):
    """Through a file and back, with all that keeps a state: momentum, decays, warps, averages."""
    if by_epochs:
        schedule = {"epochs": 4, "schedule": "cosine", "augmentation": "affine"}
        schedule |= {"ema_decay": 0.9}
    else:  # three epochs and a half
        schedule = {"iterations": 110, "lr_step_iterations": 40, "dataset": "rotated"}
        schedule |= {"architecture": "stn-sl1", "localization_lr_scale": 0.5}
    params = RunParams(conv_layer=conv_layer, momentum=0.9, batch_norm="classifier", **schedule)

    def model():
        return build_network(params).to(memory_format=torch.channels_last)

    def save(state):
        save_checkpoint(tmp_path / f"{state.epoch}.pt", Checkpoint(state, {}))

    torch.manual_seed(1)
    straight = model()
    average = averaged_model(straight, params)
    expected = train(straight, *some_digits, params, averaged=average, on_epoch_end=save)

    torch.manual_seed(99)  # whatever the new process drew before
    resumed = model()
    checkpoint = load_checkpoint(tmp_path / "2.pt")
    assert checkpoint.state.epoch == 2
    average = averaged_model(resumed, params)
    state = train(resumed, *some_digits, params, averaged=average, resume_from=checkpoint.state)

    for metric in ("train_loss", "train_accuracy", "test_loss", "learning_rate"):
        assert [m[metric] for m in state.history] == [m[metric] for m in expected.history]
    for name, weights in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weights)
    assert state.best.epoch == expected.best.epoch
    for name, weights in expected.best.weights.items():
        assert torch.equal(state.best.weights[name], weights)


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(some_digits):
    params = RunParams(epochs=1, batch_size=32)
    state = train(build_network(params), *some_digits, params)
    other = build_network(RunParams(conv_layer="coordconv2d"))
    with pytest.raises(PipelineError, match=r"^the checkpoint does not fit the network: .*again"):
        train(other, *some_digits, params, resume_from=state)


def test_a_checkpoint_of_the_last_epoch_needs_no_further_training(some_digits):
    params = RunParams(epochs=1, batch_size=500)
    ended = []
    model = build_network(params)
    state = train(model, *some_digits, params, on_epoch_end=ended.append)
    again = train(model, *some_digits, params, on_epoch_end=ended.append, resume_from=state)
    assert ended == [state]
    assert again == state
