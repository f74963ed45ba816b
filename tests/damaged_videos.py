"""Videos of every kind that a recorder, a bad copy or a hostile hand may leave, made by ffmpeg and byte by byte."""

import shutil
import struct
import subprocess

import pytest

COLOUR = "geq=lum=lum(X\\,Y):cb=100+2*N:cr=150-2*N"
MOVING = f"-f lavfi -i testsrc2=duration=0.8:rate=15:size={{size}},format=yuv444p,{COLOUR}"
"""12 frames in which all luma moves, and colour changes without edges: the versions of FFmpeg's scaler differ in how
they widen the colour planes there."""
SOUND = "-f lavfi -i sine=duration=0.8"
H264 = "-c:v libx264 -preset veryfast -threads 1"

# Kind -> how ffmpeg makes it: output arguments, of 64x48 frames. The suffix is the name's. All give right frames.
CODED = {
    "plain.mp4": f"{H264} -pix_fmt yuv420p",
    "b-frames.mp4": f"{H264} -pix_fmt yuv420p -bf 3 -g 6",
    "open-groups.mkv": f"{H264} -pix_fmt yuv420p -x264-params open-gop=1:bframes=3:keyint=6",
    "interlaced.mp4": f"{H264} -pix_fmt yuv420p -x264-params interlaced=1:tff=1",
    "interlaced.mpg": "-c:v mpeg2video -pix_fmt yuv420p -flags +ilme+ildct -b:v 2M",
    "10-bit.mp4": f"{H264} -pix_fmt yuv420p10le",
    "422.mkv": f"{H264} -pix_fmt yuv422p",
    "444.mkv": f"{H264} -pix_fmt yuv444p",
    "rgb.mkv": "-c:v libx264rgb -crf 0 -pix_fmt rgb24",
    "gray.mkv": "-c:v ffv1 -pix_fmt gray",
    "gray-h264.mkv": f"{H264} -pix_fmt gray",
    "16-bit-gray.mkv": "-c:v ffv1 -pix_fmt gray16le",
    "full-range.mp4": f"{H264} -pix_fmt yuv420p -vf scale=out_range=full -color_range pc",
    "limited-range.mp4": f"{H264} -pix_fmt yuv420p -vf scale=out_range=limited -color_range tv",
    "full-tagged-limited.mp4": f"{H264} -pix_fmt yuv420p -vf scale=out_range=full,setrange=limited -color_range tv",
    "limited-tagged-full.mp4": f"{H264} -pix_fmt yuv420p -vf scale=out_range=limited,setrange=full -color_range pc",
    "uneven-times.mkv": f"-vf select='mod(n\\,3)' -vsync vfr {H264} -pix_fmt yuv420p",
    "one-frame.mp4": f"-frames:v 1 {H264} -pix_fmt yuv420p",
    "late-start.mkv": f"-output_ts_offset 5 {H264} -pix_fmt yuv420p",
    "wide-pixels.mp4": f"-vf setsar=2/1 {H264} -pix_fmt yuv420p",
    "mpeg4.avi": "-c:v mpeg4 -q:v 3",
    "mpeg4-b.avi": "-c:v mpeg4 -q:v 3 -bf 2",
    "xvid.avi": "-c:v libxvid -q:v 3 -bf 2",
    "msmpeg4.avi": "-c:v msmpeg4 -q:v 3",
    "mpeg1.mpg": "-c:v mpeg1video -r 25 -b:v 2M",
    "mpeg2.ts": "-c:v mpeg2video -b:v 2M",
    "h264.ts": f"{H264} -pix_fmt yuv420p",
    "wmv2.wmv": "-c:v wmv2 -q:v 3",
    "flv1.flv": "-c:v flv -q:v 3",
    "mjpeg.avi": "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p",
    "hevc.mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=1:frame-threads=1 -pix_fmt yuv420p",
    "hevc-10-bit.mkv": (
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=1:frame-threads=1 -pix_fmt yuv420p10le"
    ),
    "vp8.webm": "-c:v libvpx -b:v 1M -deadline realtime -cpu-used 8",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 1M -deadline realtime -cpu-used 8 -pix_fmt yuv420p",
    "av1.mkv": "-c:v libaom-av1 -b:v 1M -usage realtime -cpu-used 8 -pix_fmt yuv420p",
    "prores.mov": "-c:v prores_ks -pix_fmt yuv422p10le",
    "huffyuv.avi": "-c:v huffyuv -pix_fmt yuv422p",
    "ffv1-alpha.mkv": "-c:v ffv1 -pix_fmt yuva420p",
    "ffv1-checked.mkv": "-c:v ffv1 -level 3 -slicecrc 1 -pix_fmt yuv420p",
    "theora.ogg": "-c:v libtheora -q:v 8 -pix_fmt yuv420p",
    "png.mov": "-c:v png -pix_fmt rgba",
    "raw.avi": "-c:v rawvideo -pix_fmt bgr24",
    "fragments.mp4": f"{H264} -pix_fmt yuv420p -g 4 -movflags frag_keyframe+empty_moov",
}
# The same with frames of another size.
SIZES = {
    "odd.mkv": ("33x17", f"{H264} -pix_fmt yuv444p"),
    "odd-subsampled.avi": ("33x17", "-c:v mpeg4 -q:v 3"),
    "one-pixel.mkv": ("1x1", "-c:v ffv1 -pix_fmt yuv444p"),
    "portrait.mp4": ("48x86", f"{H264} -pix_fmt yuv420p"),
    "one-row.mkv": ("64x1", "-c:v ffv1 -pix_fmt yuv444p"),
}


def ffmpeg(*arguments):
    """Run it, and give what it writes to its standard output."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, an independent decoder, is not installed")
    return subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-threads", "1", "-y", *map(str, arguments)],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout


def make_coded(folder, name):
    """A sound video of a kind that CODED or SIZES names."""
    size, arguments = SIZES[name] if name in SIZES else ("64x48", CODED[name])
    # what filters are told is one argument, and needs no shell's quotes
    told = [each.replace("'", "") for each in arguments.split()]
    ffmpeg(*MOVING.format(size=size).split(), *told, folder / name)
    return folder / name


def truncated(content, quarters):
    """The first quarters of a file."""
    return content[: len(content) * quarters // 4]


def with_damage(content, *, start, seed, count=40):
    """A file in which some bytes behind a place are others."""
    state, changed = seed, bytearray(content)
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        changed[start + state % (len(content) - start)] ^= 1 + state % 255
    return bytes(changed)


def with_declared_frames(avi, number):
    """An AVI whose headers tell another number of frames."""
    changed = bytearray(avi)
    main, stream = changed.index(b"avih"), changed.index(b"strh")
    struct.pack_into("<I", changed, main + 8 + 16, number)  # dwTotalFrames
    struct.pack_into("<I", changed, stream + 8 + 32, number)  # dwLength
    return bytes(changed)


def with_declared_size(avi, width, height):
    """An AVI whose header, and those of every JPEG in it, tell another size."""
    changed = bytearray(avi)
    main, form = changed.index(b"avih"), changed.index(b"strf")
    struct.pack_into("<II", changed, main + 8 + 32, width, height)
    struct.pack_into("<ii", changed, form + 8 + 4, width, height)
    at = changed.find(b"\xff\xc0")
    while at >= 0:
        struct.pack_into(">HH", changed, at + 5, height, width)
        at = changed.find(b"\xff\xc0", at + 2)
    return bytes(changed)
