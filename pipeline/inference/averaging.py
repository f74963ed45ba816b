"""One answer out of those to several views."""

import math

from torch import Tensor


def average(answers: Tensor, *, over: str) -> Tensor:
    """Logits over views, (V, ..., K) -> (..., K).

    Args:
        answers: logits.
        over: logits takes their mean; probabilities the logarithm of the mean probability, which has the mean
            probabilities for its softmax. One view is left as it is.
    """
    if len(answers) == 1:
        return answers[0]
    if over == "logits":
        return answers.mean(dim=0)
    return answers.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(answers))
