"""How a rendered figure moves: joint angles over time for ARID's 11 actions.

A single pose must say little of the action. So the limbs that an action leaves alone rest in postures that other
actions pass through (seated, mid-stride, an arm at the mouth), phases are random, and Stand is Sit backwards.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# ARID's order: a class's position is its label.
CLASS_NAMES = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")

# Degrees (thigh of either leg, knee of either leg, lean of the trunk) of postures that can be held. A further one
# is a stride that stops halfway.
LEG_RESTS = {
    "stand": (2.0, -2.0, 4.0, 4.0, 2.0),
    "seated": (86.0, 82.0, 88.0, 84.0, 6.0),
    "stooped": (22.0, 14.0, 36.0, 30.0, 58.0),
}
STRIDING, RESTS_SHARE = "striding", (0.35, 0.25, 0.15, 0.25)
# Degrees (upper arm from hanging to forward, spread from the trunk, elbow, forearm outward).
ARM_RESTS = {
    "hanging": (4.0, 8.0, 12.0, 0.0),
    "forward": (45.0, 8.0, 55.0, 0.0),
    "mouth": (52.0, 14.0, 128.0, -10.0),
    "raised": (115.0, 25.0, 45.0, 8.0),
}


@dataclass(kw_only=True)
class Motion:
    """Joint angles of one clip in radians, arrays over time. Column 0 of a pair is the acting side.

    Thighs and arms are measured from hanging straight down, forward positive; a knee bends the shin back, an elbow
    bends the forearm forward.
    """

    thigh: Array
    """(T, 2)"""
    knee: Array
    """(T, 2), >= 0"""
    lean: Array
    """(T,), of the trunk, forward positive"""
    nod: Array
    """(T,), of the head against the trunk, back positive"""
    arm: Array
    """(T, 2)"""
    spread: Array
    """(T, 2), of the upper arm away from the trunk"""
    elbow: Array
    """(T, 2)"""
    outward: Array
    """(T, 2), of the forearm away from the trunk"""
    tilt: Array
    """(T,), of a held object from upright, forward positive"""
    turn: Array
    """(T,), about the vertical, added to the direction the figure faces"""
    lift: Array
    """(T,), of the lowest foot above the floor, in body heights"""
    travel: Array
    """(T,), way gone forward, in body heights"""


def draw_motion(class_name: str, times: Array, rng: np.random.Generator) -> Motion:
    """Draw one performance of an action.

    Args:
        class_name: one of CLASS_NAMES.
        times: (T,), seconds from the clip's start, evenly spaced.
        rng: where posture, phase, tempo and size of the movement come from.
    """
    motion = _draw_rest(times, rng)
    ACTIONS[class_name](motion, times, rng)
    return motion


def _draw_rest(times: Array, rng: np.random.Generator) -> Motion:
    """Hold a posture, breathing and swaying a little."""
    count = len(times)
    legs = _draw_legs(rng)
    arms = np.array([ARM_RESTS[str(rng.choice(list(ARM_RESTS)))] for _ in range(2)]) + rng.normal(0, 6, (2, 4))
    sway = np.radians(1.5) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.5) * times + rng.random()))
    held = np.radians(np.broadcast_to(arms.T[:, None, :], (4, count, 2)))
    return Motion(
        thigh=np.radians(np.tile(legs[0:2], (count, 1))),
        knee=np.radians(np.tile(np.maximum(legs[2:4], 0.0), (count, 1))),
        lean=np.radians(legs[4]) + sway,
        nod=np.full(count, np.radians(rng.normal(0.0, 8.0))),
        arm=held[0] + sway[:, None],
        spread=held[1].copy(),
        elbow=held[2] + sway[:, None],
        outward=held[3].copy(),
        tilt=np.full(count, np.radians(rng.uniform(-10.0, 60.0))),
        turn=sway.copy(),
        lift=np.zeros(count),
        travel=np.zeros(count),
    )


def _draw_legs(rng: np.random.Generator) -> Array:
    """(5,) degrees of a posture of legs and trunk, as in LEG_RESTS."""
    rest = str(rng.choice([*LEG_RESTS, STRIDING], p=RESTS_SHARE))
    if rest == STRIDING:
        thigh, knee = _stride(rng.uniform(0, 2 * np.pi, 1), rng.uniform(24.0, 40.0), rng.uniform(45.0, 85.0))
        legs = np.array([*np.degrees(thigh[0]), *np.degrees(knee[0]), 4.0])
    else:
        legs = np.array(LEG_RESTS[rest])
    return legs + rng.normal(0.0, 3.0, 5)


def _cycle(times: Array, rng: np.random.Generator, low_hz: float, high_hz: float) -> Array:
    """(T,) phase in radians of a repeated movement, from a random start."""
    return 2 * np.pi * (rng.uniform(low_hz, high_hz) * times + rng.random())


def _stride(phase: Array, swing: float, fold: float) -> tuple[Array, Array]:
    """Step with both legs in turn: (T, 2) thighs swinging by `swing` and knees folding by `fold` degrees."""
    legs = phase[:, None] + np.array([0.0, np.pi])
    thigh = np.radians(6.0) + np.radians(swing) * np.sin(legs)
    return thigh, np.radians(8.0) + np.radians(fold) * np.maximum(np.cos(legs), 0.0)


def _there_and_back(phase: Array) -> Array:
    """(T,) in [0, 1]: 0, 1 and back once a turn of the phase, resting a little at both ends."""
    share: Array = 0.5 - 0.5 * np.sin(0.5 * np.pi * np.cos(phase))
    return share


def _between(start: float, end: float, share: Array) -> Array:
    """(T,) radians on the way between two angles in degrees."""
    return np.radians(start + (end - start) * share)


def _once(times: Array, rng: np.random.Generator, longest_sec: float) -> Array:
    """(T,) rising once from 0 to 1, inside the middle of the clip where a shorter view sees it too."""
    duration = float(times[-1] - times[0]) if len(times) > 1 else 1.0
    taken = min(longest_sec, rng.uniform(0.55, 0.75) * duration)
    start = times[0] + (duration - taken) * rng.uniform(0.3, 0.7)
    share = np.clip((times - start) / taken, 0.0, 1.0)
    smooth: Array = share * share * (3.0 - 2.0 * share)
    return smooth


def _drink(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    raised = _there_and_back(_cycle(times, rng, 0.95, 1.15))
    motion.arm[:, 0] = _between(8.0, 62.0, raised)
    motion.elbow[:, 0] = _between(55.0, 138.0, raised)
    motion.spread[:, 0] = _between(6.0, 22.0, raised)
    motion.outward[:, 0] = np.radians(-8.0)
    motion.nod += _between(0.0, 26.0, raised)
    motion.tilt = _between(0.0, -80.0, raised)


def _jump(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    phase = _cycle(times, rng, 1.2, 1.5)
    bend, rise = np.maximum(-np.sin(phase), 0.0), np.maximum(np.sin(phase), 0.0)
    depth = rng.uniform(32.0, 44.0)
    motion.thigh = np.repeat(_between(4.0, depth, bend)[:, None], 2, axis=1)
    motion.knee = np.repeat(_between(8.0, 2.0 * depth, bend)[:, None], 2, axis=1)
    motion.lean = _between(2.0, 34.0, bend)
    motion.lift = rng.uniform(0.13, 0.17) * rise
    motion.arm += _between(-12.0, 22.0, rise)[:, None]


def _pick(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    down = _there_and_back(_cycle(times, rng, 0.95, 1.15))
    motion.lean = _between(4.0, rng.uniform(70.0, 88.0), down)
    motion.thigh = np.radians([6.0, -4.0]) + _between(0.0, 26.0, down)[:, None]
    motion.knee = np.radians([6.0, 6.0]) + _between(0.0, 48.0, down)[:, None]
    motion.arm[:, 0] = _between(6.0, 24.0, down)
    motion.elbow[:, 0] = _between(30.0, 6.0, down)
    motion.outward[:, 0] = 0.0


def _pour(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    tipped = _there_and_back(_cycle(times, rng, 0.95, 1.15))
    motion.arm[:, 0] = _between(72.0, 62.0, tipped)
    motion.spread[:, 0] = _between(14.0, 38.0, tipped)
    motion.elbow[:, 0] = _between(82.0, -14.0, tipped)
    motion.outward[:, 0] = np.radians(4.0)
    motion.tilt = _between(0.0, 125.0, tipped)


def _push(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    thrust = _there_and_back(_cycle(times, rng, 0.95, 1.15))
    motion.arm = np.repeat(_between(18.0, 84.0, thrust)[:, None], 2, axis=1)
    motion.elbow = np.repeat(_between(125.0, 10.0, thrust)[:, None], 2, axis=1)
    motion.spread = np.repeat(_between(24.0, 8.0, thrust)[:, None], 2, axis=1)
    motion.outward = np.zeros_like(motion.outward)
    motion.lean = motion.lean + _between(0.0, 24.0, thrust)
    motion.travel = 0.1 * thrust


def _run(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    phase = _cycle(times, rng, 1.7, 2.1)
    motion.thigh, motion.knee = _stride(phase, rng.uniform(30.0, 40.0), rng.uniform(60.0, 85.0))
    motion.arm += np.radians(26.0) * np.sin(phase)[:, None] * np.array([-1.0, 1.0])
    motion.lift = 0.035 * (1.0 - np.cos(2.0 * phase))
    motion.travel = rng.uniform(1.3, 1.7) * times


def _sit(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    lowered = _once(times, rng, 1.1)
    motion.thigh = np.repeat(_between(2.0, 86.0, lowered)[:, None], 2, axis=1)
    motion.knee = np.repeat(_between(4.0, 88.0, lowered)[:, None], 2, axis=1)
    # The trunk leans forward on the way, or the figure would fall over.
    motion.lean = _between(2.0, 6.0, lowered) + np.radians(38.0) * np.sin(np.pi * lowered)


def _stand(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    _sit(motion, times, rng)
    for name in ("thigh", "knee", "lean"):
        setattr(motion, name, getattr(motion, name)[::-1])


def _turn(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    # At an even rate from anywhere: a frame from the middle is as likely to be a side view as one from the end.
    rate = rng.uniform(160.0, 210.0) * (1.0 if rng.random() < 0.5 else -1.0)
    motion.turn = motion.turn + np.radians(rng.uniform(0.0, 360.0) + rate * times)
    steps = _cycle(times, rng, 1.6, 2.0)[:, None] + np.array([0.0, np.pi])
    stepping = np.maximum(np.sin(steps), 0.0) * np.radians(10.0)
    motion.thigh = motion.thigh + stepping
    motion.knee = motion.knee + 2.0 * stepping


def _walk(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    phase = _cycle(times, rng, 0.8, 1.0)
    motion.thigh, motion.knee = _stride(phase, rng.uniform(24.0, 34.0), rng.uniform(45.0, 70.0))
    motion.arm += np.radians(18.0) * np.sin(phase)[:, None] * np.array([-1.0, 1.0])
    motion.travel = rng.uniform(0.5, 0.7) * times


def _wave(motion: Motion, times: Array, rng: np.random.Generator) -> None:
    swing = np.sin(_cycle(times, rng, 1.6, 2.1))
    motion.arm[:, 0] = np.radians(rng.uniform(105.0, 130.0))
    motion.spread[:, 0] = np.radians(rng.uniform(20.0, 35.0))
    motion.elbow[:, 0] = np.radians(48.0) + np.radians(40.0) * swing
    motion.outward[:, 0] = np.radians(8.0) + np.radians(38.0) * swing


ACTIONS: dict[str, Callable[[Motion, Array, np.random.Generator], None]] = {
    "Drink": _drink,
    "Jump": _jump,
    "Pick": _pick,
    "Pour": _pour,
    "Push": _push,
    "Run": _run,
    "Sit": _sit,
    "Stand": _stand,
    "Turn": _turn,
    "Walk": _walk,
    "Wave": _wave,
}
