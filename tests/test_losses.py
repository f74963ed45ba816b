"""The losses of DL-KDD against values worked out by hand and plain formulas."""

import math

import pytest
import torch

from pipeline.distillation.losses import cross_entropy, distillation_loss, kd_weight_at, student_loss

LN3 = math.log(3)


def plain_student_loss(student, labels, teacher, *, temperature, weight, scale):
    """Eq. 4 to 7 with Python floats, row by row."""

    def soften(row, tau):
        powers = [math.exp(z / tau) for z in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for row, label, taught in zip(student.tolist(), labels.tolist(), teacher.tolist(), strict=True):
        total -= math.log(soften(row, 1.0)[label])
        pairs = zip(soften(row, temperature), soften(taught, temperature), strict=True)
        total += weight * scale * sum(p_t * math.log(p_t / p_s) for p_s, p_t in pairs)
    return total / len(labels)


def example(seed=0, batch=5, classes=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(batch, classes, generator=generator, dtype=dtype)
    teacher = 3 * torch.randn(batch, classes, generator=generator, dtype=dtype)
    return student, torch.randint(0, classes, (batch,), generator=generator), teacher


def test_cross_entropy_of_three_to_one_odds_is_log_of_four_thirds():
    logits = torch.tensor([[0.0, LN3], [LN3, 0.0]], dtype=torch.float64)
    assert cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(math.log(4 / 3), abs=1e-12)
    # the mean over the batch: -ln(3/4) and -ln(1/4)
    wanted = (math.log(4 / 3) + math.log(4)) / 2
    assert cross_entropy(logits, torch.tensor([1, 1])).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_divergence_of_opposite_three_to_one_odds_is_half_log_three(temperature):
    # after the temperature the odds are 1:3 and 3:1, so KL = (3/4 - 1/4) ln 3
    student = temperature * torch.tensor([[0.0, LN3]], dtype=torch.float64)
    teacher = temperature * torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(LN3 / 2, abs=1e-12)


def test_divergence_is_from_teacher_to_student_and_not_the_other_way():
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    forward = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    backward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(forward, abs=1e-12)
    assert distillation_loss(teacher, student, 1.0).item() == pytest.approx(backward, abs=1e-12)


def test_divergence_is_averaged_over_the_batch_and_summed_over_classes():
    student = torch.tensor([[0.0, LN3], [1.0, 2.0]], dtype=torch.float64)
    teacher = torch.tensor([[LN3, 0.0], [1.0, 2.0]], dtype=torch.float64)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(LN3 / 4, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("squared", [False, True])
def test_student_loss_equals_the_equations_row_by_row(temperature, squared):
    student, labels, teacher = example()
    found = student_loss(
        student,
        labels,
        teacher,
        temperature=temperature,
        weight=1.5,
        scale_by_temperature_squared=squared,
    )
    scale = temperature**2 if squared else 1.0
    wanted = plain_student_loss(student, labels, teacher, temperature=temperature, weight=1.5, scale=scale)
    assert found.item() == pytest.approx(wanted, abs=1e-12)  # float64 on both sides
    if not squared:  # as the paper has it, so where nothing is said too
        assert student_loss(student, labels, teacher, temperature=temperature, weight=1.5).item() == found.item()


def test_float32_loss_equals_float64_within_rounding():
    student, labels, teacher = example()
    options = {"temperature": 5.0, "weight": 1.5}
    wanted = student_loss(student, labels, teacher, **options).item()
    found = student_loss(student.float(), labels, teacher.float(), **options).item()
    assert found == pytest.approx(wanted, rel=1e-6)  # a few float32 roundings of 6e-8


def test_distillation_gradient_is_the_difference_of_soft_predictions_over_temperature():
    student, _, teacher = example()
    student.requires_grad_(True)
    distillation_loss(student, teacher, 5.0).backward()
    difference = torch.softmax(student.detach() / 5, 1) - torch.softmax(teacher / 5, 1)
    torch.testing.assert_close(student.grad, difference / 5 / len(student), rtol=0, atol=1e-15)


def test_no_gradient_flows_into_the_teacher():
    student, labels, teacher = example()
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    student_loss(student, labels, teacher, temperature=5.0, weight=1.0).backward()
    assert teacher.grad is None


def test_equal_logits_have_no_divergence_and_no_gradient():
    student, _, _ = example()
    student.requires_grad_(True)
    loss = distillation_loss(student, student.detach().clone(), 5.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert student.grad.abs().max() < 1e-15


def test_logits_of_a_thousand_keep_the_divergence_finite():
    student = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = distillation_loss(student, torch.tensor([[0.0, 1000.0]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert torch.equal(student.grad, torch.tensor([[1.0, -1.0]]))


def test_bfloat16_logits_are_compared_in_float32():
    student, _, teacher = (tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in example())
    loss = distillation_loss(student, teacher, 5.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(distillation_loss(student.double(), teacher.double(), 5.0).item(), rel=1e-5)


def test_weight_zero_gives_the_baselines_gradients_bit_for_bit_whatever_the_teacher_says():
    student, labels, teacher = example(dtype=torch.float32)
    baseline = student.clone().requires_grad_(True)
    cross_entropy(baseline, labels).backward()
    for logits in (None, teacher, torch.full_like(teacher, math.nan)):
        taught = student.clone().requires_grad_(True)
        student_loss(taught, labels, logits, temperature=5.0, weight=0.0).backward()
        assert torch.equal(taught.grad, baseline.grad)


def test_squared_temperature_turns_the_papers_weight_of_0_06_into_1_5():
    # close logits: the force on them, compared with that of temperature 1, as the documentation says
    _, _, teacher = example()
    teacher = 0.01 * teacher
    offset = 1e-4 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def force(temperature):
        student = (teacher + offset).requires_grad_(True)
        distillation_loss(student, teacher, temperature).backward()
        return student.grad.norm().item()

    # logits of about 0.03 leave the soft predictions uniform to about 3 %
    assert 1.5 * force(5.0) / force(1.0) == pytest.approx(0.06, rel=0.03)
    assert 1.5 * 25 * force(5.0) / force(1.0) == pytest.approx(1.5, rel=0.03)


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [(0, 1.5), (1, 1.425), (5, 1.1607), (10, 0.8981), (15, 0.6949), (20, 0.5377), (29, 0.3389), (49, 0.1215)],
)
def test_papers_weight_decays_by_five_percent_an_epoch_from_epoch_zero(epoch, weight):
    assert kd_weight_at(epoch, 1.5, 0.95) == pytest.approx(weight, abs=5e-5)  # written to four digits


def test_decay_of_one_keeps_the_weight_and_weight_zero_stays_zero():
    assert kd_weight_at(1000, 1.5, 1.0) == 1.5
    assert kd_weight_at(7, 0.0, 0.95) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 1.5, 0.95), "epoch: found -1, wanted a count from 0"),
        ((0, -0.5, 0.95), "kd_weight: found -0.5"),
        ((0, math.nan, 0.95), "kd_weight: found nan"),
        ((0, 1.5, 0.0), "kd_decay: found 0.0"),
        ((0, 1.5, -0.5), "kd_decay: found -0.5"),
        ((0, 1.5, 1.1), "kd_decay: found 1.1"),
    ],
)
def test_weight_refuses_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd_weight_at(*arguments)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_distillation_refuses_a_temperature_that_is_not_positive(temperature):
    student, _, teacher = example()
    with pytest.raises(ValueError, match=r"temperature: found .*, wanted a number above 0"):
        distillation_loss(student, teacher, temperature)


def test_distillation_refuses_a_teacher_of_other_classes():
    student, _, teacher = example()
    with pytest.raises(ValueError, match=r"teacher_logits: found shape \(5, 6\), wanted the student's \(5, 7\)"):
        distillation_loss(student, teacher[:, :6], 5.0)
    with pytest.raises(ValueError, match=r"teacher_logits: found shape \(5, 7\), wanted the student's \(5, 6\)"):
        distillation_loss(student[:, :6], teacher, 5.0)


def test_student_with_a_weight_refuses_to_train_without_a_teacher():
    student, labels, _ = example()
    with pytest.raises(ValueError, match="teacher_logits: found None"):
        student_loss(student, labels, None, temperature=5.0, weight=0.5)
