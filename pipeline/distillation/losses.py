"""The losses of DL-KDD, Eq. 3 to 8: labels for the teacher, labels and teacher logits for the student."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against the labels (DL-KDD Eq. 3 and 4), averaged over the batch.

    Args:
        logits: (B, K), before softmax.
        labels: int64 (B,), class indices from 0 to K - 1.
    """
    return F.cross_entropy(logits, labels)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's soft predictions from the teacher's (DL-KDD Eq. 5 and 6).

    sum_i p_t,i log(p_t,i / p_s,i) with p = softmax(z / temperature), averaged over the batch. As in the
    paper, nothing makes up for the temperature: the gradient of one row in z_s is (p_s - p_t) / temperature.

    Args:
        student_logits: (B, K), before softmax.
        teacher_logits: (B, K), of the same views; no gradient flows into them.
        temperature: softmax temperature, > 0.

    Raises:
        ValueError: the temperature is not above 0, or the shapes differ.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: found {temperature}, wanted a number above 0")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits: found shape {tuple(teacher_logits.shape)}, wanted the student's "
            f"{tuple(student_logits.shape)}; give both the same views and the same classes"
        )
    student = torch.log_softmax(_at_least_float32(student_logits) / temperature, dim=1)
    teacher = torch.log_softmax(_at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_weight_at(epoch: int, kd_weight: float, kd_decay: float) -> float:
    """Weight of the distillation loss in an epoch (DL-KDD Eq. 8): kd_weight * kd_decay ** epoch.

    Args:
        epoch: counted from 0, so that the first epoch has the full weight.
        kd_weight: the paper's alpha_0, >= 0.
        kd_decay: the paper's gamma, in (0, 1].

    Raises:
        ValueError: an argument is out of its range.
    """
    if epoch < 0:
        raise ValueError(f"epoch: found {epoch}, wanted a count from 0")
    if not kd_weight >= 0:
        raise ValueError(f"kd_weight: found {kd_weight}, wanted a number >= 0; 0 trains without the teacher")
    if not 0 < kd_decay <= 1:
        raise ValueError(f"kd_decay: found {kd_decay}, wanted a number in (0, 1]; 1 keeps the weight")
    return kd_weight * kd_decay**epoch


def student_loss(
    student_logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    *,
    temperature: float,
    weight: float,
    scale_by_temperature_squared: bool = False,
) -> Tensor:
    """Cross-entropy plus the weighted distillation loss (DL-KDD Eq. 7), averaged over the batch.

    Where the logits are close, the distillation loss pulls on them with weight / temperature**2 times the
    force that it would have at temperature 1: 1.5 / 25 = 0.06 with the paper's numbers.
    `scale_by_temperature_squared` makes up for that, as Hinton et al. (2015) do, so that the same numbers
    weigh 1.5. The paper's equations have no such factor.

    Args:
        student_logits: (B, K), before softmax.
        labels: int64 (B,), class indices from 0 to K - 1.
        teacher_logits: (B, K), of the same views, without gradient; may be None if the weight is 0.
        temperature: softmax temperature, > 0.
        weight: of the distillation loss in this epoch, >= 0 (see `kd_weight_at`).
        scale_by_temperature_squared: multiply the distillation loss by temperature**2.

    Raises:
        ValueError: the weight is above 0 and there are no teacher logits, or as in `distillation_loss`.
    """
    loss = cross_entropy(student_logits, labels)
    # Skipped, not multiplied by 0: adding zeros could change the gradients' bits (-0.0 + 0.0), and NaN * 0 is
    # NaN. So a student without the teacher is bit for bit the baseline.
    if weight == 0:
        return loss
    if teacher_logits is None:
        raise ValueError(f"teacher_logits: found None, wanted the teacher's logits, as weight is {weight} and not 0")
    scale = temperature**2 if scale_by_temperature_squared else 1.0
    return loss + weight * scale * distillation_loss(student_logits, teacher_logits, temperature)


def _at_least_float32(logits: Tensor) -> Tensor:
    # under autocast logits come in bfloat16, whose 8 bits are too few for differences of soft predictions
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
