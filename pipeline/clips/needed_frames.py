"""Some frames of a video, with no more decoded than they need: what is skipped changes none of their pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.clips.video_stream import video_stream

# What a decoder is told before it gets a packet; FFmpeg's names.
SKIP_ALL, SKIP_UNREFERENCED, DECODE = "ALL", "NONREF", "DEFAULT"

# Network abstraction layer units of H.264 (Rec. ITU-T H.264, table 7-1).
SLICES, IDR = range(1, 5), 5


def needed_frames(container: Any, wanted: Sequence[int], num_frames: int) -> Iterator[tuple[int, Any]]:
    """Decode the wanted frames of an opened video, and what they need; nothing where that might not be exact.

    Args:
        container: av's, at its start; its header tells every packet's time stamp.
        wanted: positions in decoded order, at least one.
        num_frames: frames that the whole video decodes to, as counted before.

    Returns:
        Position and av.VideoFrame, in no promised order; frames that are not there are left out.
    """
    stream = video_stream(container)
    codec = stream.codec_context
    # MPEG-4's decoder gives some of Xvid's frames another packet's time stamp.
    if codec.name != "h264":
        return
    packets = [packet for packet in container.demux(stream) if packet.size]
    times = [packet.pts for packet in packets if packet.pts is not None and not packet.is_discard]
    # As many frames as packets: each packet holds one.
    if len(packets) != num_frames or len(times) != num_frames:
        return
    plan = plan_packets(times, _starts(codec, packets), wanted)
    if plan is None:
        return
    # Nothing instead of a packet makes the decoder give what it holds back.
    for packet, mode in zip([*packets[: len(plan.modes)], None], [*plan.modes, DECODE], strict=True):
        if codec.skip_frame != mode:
            codec.skip_frame = mode
        for frame in codec.decode(packet):
            if frame.pts in plan.index_of:
                yield plan.index_of[frame.pts], frame


@dataclass(frozen=True, kw_only=True)
class PacketPlan:
    """How to decode a video for the frames that are wanted."""

    modes: tuple[str, ...]
    """For each packet up to the last one needed. A packet that is skipped is still handed over: what it says about
    the packets after it is read."""
    index_of: dict[int, int]
    """Time stamp of a wanted frame -> its position in decoded order."""


def plan_packets(times: Sequence[int], starts: Sequence[bool], wanted: Sequence[int]) -> PacketPlan | None:
    """Plan the decoding of some frames.

    A decoder gives frames by growing time stamp, so the frame at position i of a video whose every packet holds one
    frame is that of the i-th smallest time stamp. Skipped are: all before the last start that no wanted frame
    precedes, and later on frames that are neither wanted nor referred to by others.

    Args:
        times: time stamp of each packet, in coded order.
        starts: whether nothing after a packet refers to anything before it, but for frames shown before it.
        wanted: positions in decoded order, at least one.

    Returns:
        The plan; None where time stamps repeat or a position lies beyond the end.
    """
    order = sorted(times)
    if len(set(order)) < len(order) or max(wanted) >= len(order):
        return None
    index_of = {order[index]: index for index in wanted}
    needed = [position for position, time in enumerate(times) if time in index_of]
    first = min(index_of)
    start = max(
        (position for position in range(needed[0] + 1) if starts[position] and times[position] <= first), default=0
    )
    modes = [SKIP_ALL] * start
    modes += [DECODE if time in index_of else SKIP_UNREFERENCED for time in times[start : needed[-1] + 1]]
    return PacketPlan(modes=tuple(modes), index_of=index_of)


def is_idr(packet: bytes | memoryview, length_bytes: int) -> bool:
    """Whether an H.264 packet begins anew: only then nothing behind it refers to anything before it.

    A container's key frames may also be recovery points, from which a picture is only right after a while.

    Args:
        packet: units as MP4 holds them, each after its length.
        length_bytes: bytes of a length, 1 to 4.
    """
    start = 0
    while start + length_bytes < len(packet):
        kind = packet[start + length_bytes] & 31
        if kind == IDR or kind in SLICES:
            return kind == IDR
        start += length_bytes + int.from_bytes(packet[start : start + length_bytes], "big")
    return False


def _starts(codec: Any, packets: Sequence[Any]) -> list[bool]:
    """Whether decoding may start at a packet; see plan_packets."""
    header = codec.extradata or b""
    if len(header) < 5 or header[0] != 1:  # not as MP4 holds it
        return [False] * len(packets)
    length_bytes = (header[4] & 3) + 1
    return [packet.is_keyframe and is_idr(memoryview(packet), length_bytes) for packet in packets]
