"""The heads against plain formulas, and what their masks and dropouts do."""

import math

import pytest
import torch
from torch import nn

from pipeline.models.temporal_attention import AverageHead, StdNorm, TemporalAttention

CHANNELS, TOKENS, CLASSES, HEADS = 16, 4, 5, 2


def small_head(**options):
    torch.manual_seed(0)
    quiet = {"heads": HEADS, "dropout": 0.0, "classifier_dropout": 0.0}
    return TemporalAttention(CHANNELS, TOKENS, CLASSES, **(quiet | options))


def features(batch=3, tokens=TOKENS):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, tokens, 3, 2, generator=generator)


def plain_norm(x, gain, bias):
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / (x.shape[-1] - 1)
    return gain * (x - mean) / (variance**0.5 + 1e-6) + bias


def plain_head(head, clips, hidden=()):
    """The head's formulas for one clip at a time, one attention head at a time, in float64."""
    w = {name: value.detach().double() for name, value in head.state_dict().items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    logits = []
    for clip in clips.double():
        pooled = clip.sum((2, 3)) / (clip.shape[2] * clip.shape[3])
        x = torch.vstack([w["class_token"][0], pooled.T]) + w["position"][0]
        normed = plain_norm(x, w["norm1.gain"], w["norm1.bias"])
        query, key, value = (linear(normed, f"attention.{part}") for part in ("query", "key", "value"))
        mixed = torch.zeros_like(x)
        size = CHANNELS // HEADS
        for part in range(HEADS):
            columns = slice(part * size, (part + 1) * size)
            weights = torch.exp(query[:, columns] @ key[:, columns].T / math.sqrt(size))
            weights[:, list(hidden)] = 0
            mixed[:, columns] = weights / weights.sum(1, keepdim=True) @ value[:, columns]
        x = x + linear(mixed, "attention.output")
        inner = linear(plain_norm(x, w["norm2.gain"], w["norm2.bias"]), "feed_forward.0")
        bent = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(bent, "feed_forward.3")
        logits.append(linear(x[0], "classifier"))
    return torch.stack(logits)


def test_head_equals_the_plain_formulas():
    head = small_head().eval()
    for parameter in head.parameters():  # so that every gain and bias counts
        nn.init.normal_(parameter, std=0.3)
    found = head.double()(features().double())
    torch.testing.assert_close(found, plain_head(head, features()), rtol=0, atol=1e-12)  # float64 rounding
    in_float32 = head.float()(features())
    torch.testing.assert_close(in_float32.double(), found, rtol=1e-5, atol=1e-5)  # float32 rounding, sums of 64


def test_hidden_keys_leave_the_attention_of_every_query(monkeypatch):
    head = small_head(keep_probability=0.5).train()
    kept = torch.tensor([[True, True, False, True, False]]).expand(3, -1)
    monkeypatch.setattr(head, "_draw_kept_keys", lambda x: kept)
    found = head.double()(features().double())
    torch.testing.assert_close(found, plain_head(head, features(), hidden=(2, 4)), rtol=0, atol=1e-12)


def test_norm_divides_by_unbiased_deviation_plus_eps():
    norm = StdNorm(3)
    # mean 2, unbiased deviation 1; a constant row gives 0 / 1e-6 = 0 and no NaN
    found = norm(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("tokens", "count"), [(8, 3_157_504), (4, 3_155_456), (16, 3_161_600)])
def test_head_of_512_channels_has_the_published_number_of_weights(tokens, count):
    head = TemporalAttention(512, tokens, 11)
    final = sum(parameter.numel() for parameter in head.classifier.parameters())
    assert final == 512 * 11 + 11
    assert sum(parameter.numel() for parameter in head.parameters()) - final == count


def test_first_weights_have_the_published_spread():
    torch.manual_seed(0)
    head = TemporalAttention(512, 8, 11)
    # 9 x 512 draws: the standard deviation is known to 1 %
    assert head.position.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.class_token.std().item() == pytest.approx(0.02, rel=0.15)
    bound = math.sqrt(6 / (512 + 11))  # Xavier's
    assert 0.98 * bound < head.classifier.weight.abs().max().item() <= bound
    assert torch.equal(head.classifier.bias, torch.zeros(11))


def test_default_dropouts_are_a_tenth_inside_and_eight_tenths_before_the_classifier():
    rates = [module.p for module in TemporalAttention(16, 4, 5).modules() if isinstance(module, nn.Dropout)]
    assert sorted(rates) == [0.1, 0.1, 0.1, 0.8]


def test_each_dropout_falls_where_the_published_head_has_it(monkeypatch):
    """In the order of the formulas: positions, attention weights, both halves of the block, its end, classifier."""
    seen = []

    def count(self, x):
        seen.append((self.p, tuple(x.shape)))
        return x

    monkeypatch.setattr(nn.Dropout, "forward", count)
    head = TemporalAttention(CHANNELS, TOKENS, CLASSES, heads=HEADS).train()
    head(features())
    tokens = (3, TOKENS + 1, CHANNELS)
    assert seen == [
        (0.1, tokens),
        (0.1, (3, HEADS, TOKENS + 1, TOKENS + 1)),
        (0.1, tokens),
        (0.1, (*tokens[:2], 4 * CHANNELS)),
        (0.1, tokens),
        (0.1, tokens),
        (0.8, (3, CHANNELS)),
    ]


def test_order_of_the_steps_in_time_matters():
    head = small_head().eval()
    assert not torch.allclose(head(features()), head(features().flip(2)), atol=1e-4)


def test_hiding_almost_every_token_leaves_only_the_class_token():
    head = small_head(keep_probability=1e-12).train()
    found = head(features())
    # the class token sees itself alone, so all clips look alike
    assert torch.equal(found, head(features().flip(0) * 7))
    torch.testing.assert_close(found.double(), plain_head(head, features(), hidden=(1, 2, 3, 4)), rtol=1e-5, atol=1e-6)


def test_tokens_are_kept_with_the_wanted_probability_and_the_class_token_always():
    head = small_head(keep_probability=0.8).train()
    kept = head._draw_kept_keys(torch.zeros(10_000, TOKENS + 1, CHANNELS))
    assert kept[:, 0].all()
    # 40,000 draws: standard error 0.002
    assert kept[:, 1:].float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert len(torch.unique(kept[:, 1:].int(), dim=0)) == 2**TOKENS  # drawn apart for each sample and token


def test_evaluation_masks_and_drops_nothing():
    noisy = small_head(keep_probability=0.5, dropout=0.5, classifier_dropout=0.5)
    quiet = small_head()
    assert torch.equal(noisy.eval()(features()), quiet.eval()(features()))
    assert not torch.equal(noisy.train()(features()), noisy(features()))


def test_training_without_dropout_and_mask_equals_evaluation():
    head = small_head()
    assert torch.equal(head.train()(features()), head.eval()(features()))


def test_head_refuses_clips_of_another_length():
    with pytest.raises(ValueError, match="found 3 steps in time, wanted 4; give clips of as many frames"):
        small_head()(features(tokens=3))


def test_head_refuses_channels_that_do_not_divide_and_impossible_probabilities():
    with pytest.raises(ValueError, match="channels: found 20, wanted a multiple of the 8"):
        TemporalAttention(20, 4, 5)
    for probability in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"keep_probability: found {probability}"):
            TemporalAttention(16, 4, 5, keep_probability=probability)


def test_average_head_is_a_linear_layer_of_the_mean():
    torch.manual_seed(0)
    head = AverageHead(CHANNELS, CLASSES).eval()
    found = head(features())
    mean = features().flatten(2).double().mean(2)
    wanted = mean @ head.classifier.weight.double().T + head.classifier.bias.double()
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)  # float32 means of 24 numbers


def test_average_head_drops_only_in_training():
    torch.manual_seed(0)
    head = AverageHead(CHANNELS, CLASSES, classifier_dropout=0.5)
    assert not torch.equal(head.train()(features()), head(features()))
    assert torch.equal(head.eval()(features()), head(features()))
