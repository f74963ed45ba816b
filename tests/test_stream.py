"""Live streams against real senders on loopback; the thread that reads them; and writing frame by frame."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from random_checkpoint import write_checkpoint

from pipeline.cli import cli
from pipeline.clips.catch_up import BEHIND_SEC, CAUGHT_UP_SEC, CatchUp
from pipeline.clips.live_address import is_live, shown_source
from pipeline.clips.stream import measure_length, open_live, read_frames, write_stream
from pipeline.clips.video import FrameConverter, probe
from pipeline.clips.video_stream import SQUARE
from pipeline.inference import live_reader
from pipeline.inference.live_overlay import WAITING_FRAMES, open_live_overlay
from pipeline.inference.live_reader import LiveReader
from pipeline.inference.live_stream import LiveSettings, follow
from pipeline.inference.loading import load_recogniser
from pipeline.inference.overlay import Labelling
from pipeline.inference.predictor import Predictor, Protocol
from pipeline.inference.windows import WindowRule, parse_span

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
# Long enough for a machine that is busy with other things; nothing here waits so long on one that is not.
PATIENCE_SEC = 60.0

# A picture of 64x48 at 15 frames a second with a key frame each second, as a camera sends it.
PICTURE = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=15"]
CODED = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "15", "-pix_fmt", "yuv420p"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "student.safetensors")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def sending(*to):
    """A running ffmpeg that sends the picture."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, the sender, is not installed")
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", *PICTURE, *CODED, "-f", "mpegts", *to]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Following:
    """`follow` in a thread, with what it told and answered so far."""

    def __init__(self, source, checkpoint, *, window="4f", stride="4f", timeout_sec=5.0, retries=60, duration=None):
        self.told, self.answers, self.error, self.summary = [], [], None, None
        self.stop = threading.Event()
        protocol = Protocol(clips=1, crops="centre", average="logits")
        predictor = Predictor(load_recogniser(checkpoint, device=CPU), protocol=protocol, batch_size=1, device=CPU)
        settings = LiveSettings(
            windows=WindowRule(length=parse_span(window), stride=parse_span(stride)),
            duration_sec=duration,
            timeout_sec=timeout_sec,
            retries=retries,
        )

        def run():
            try:
                self.summary = follow(
                    source,
                    predictor,
                    settings,
                    stop=self.stop,
                    on_answer=lambda answer, live: self.answers.append((answer, live)),
                    tell=self.told.append,
                )
            except ValueError as error:
                self.error = str(error)

        self.thread = threading.Thread(target=run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()

    def until(self, condition):
        end = time.monotonic() + PATIENCE_SEC
        while not condition():
            assert time.monotonic() < end, (self.told, len(self.answers), self.error)
            assert self.thread.is_alive() or condition(), (self.told, self.error)
            time.sleep(0.02)

    def until_answers(self, count):
        self.until(lambda: len(self.answers) >= count)


# --- real senders ---


def test_a_sender_over_udp_that_drops_and_returns_is_followed(checkpoint):
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with Following(url, checkpoint, timeout_sec=1.0) as following:
        with sending(url):
            following.until_answers(3)
        following.until(lambda: any("no answer for 1 s; trying again" in line for line in following.told))
        before = len(following.answers)
        dropped = following.answers[-1][0]
        with sending(url):
            following.until_answers(before + 3)
    assert following.summary.connections >= 2
    assert len(following.summary.latencies) == len(following.answers)
    assert "reconnections" in str(following.summary)
    # Four frames of one connection each: none of before the break with one of after it.
    assert all(answer.num_frames == 4 and answer.end - answer.start < 1 for answer, _ in following.answers)
    returned = next(answer for answer, _ in following.answers if answer.start > dropped.end)
    assert returned.start - dropped.end > 0.9
    starts = [answer.start for answer, _ in following.answers]
    assert starts == sorted(starts)
    for _, live in following.answers:
        assert live["latency_ms"] >= 0
        assert live["time"].endswith("Z")


def test_a_sender_over_http_that_drops_and_returns_is_followed(checkpoint):
    port = free_port()
    url = f"http://127.0.0.1:{port}/night.ts"
    with Following(url, checkpoint) as following:
        with sending("-listen", "1", url) as sender:
            following.until_answers(2)
            sender.kill()
            following.until(lambda: any("trying again" in line for line in following.told))
        before = len(following.answers)
        with sending("-listen", "1", url):
            following.until_answers(before + 2)
    assert following.summary.connections == 2
    assert following.told.count(f"{url}: connected") == 2


def test_a_sender_over_tcp_is_followed(checkpoint):
    port = free_port()
    with Following(f"tcp://127.0.0.1:{port}", checkpoint) as following, sending(f"tcp://127.0.0.1:{port}?listen"):
        following.until_answers(2)


@pytest.fixture
def rtsp_url():
    """Of a GStreamer server."""
    python = "/usr/bin/python3"
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(python).exists() or subprocess.run([python, "-c", check], capture_output=True).returncode:
        pytest.skip("no RTSP server: GStreamer's gst-rtsp-server and its Python bindings are not installed")
    process = subprocess.Popen([python, ROOT / "tests" / "rtsp_server.py"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"rtsp://127.0.0.1:{int(process.stdout.readline())}/live"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_rtsp_server_is_followed(checkpoint, rtsp_url):
    with Following(rtsp_url.replace("//", "//user:secret@"), checkpoint, stride="2f") as following:
        following.until_answers(5)
    assert "secret" not in "".join([*following.told, str(following.summary)])
    assert following.summary.connections == 1


def test_an_address_that_an_rtsp_server_does_not_know_is_told(checkpoint, rtsp_url):
    with Following(rtsp_url + "/absent", checkpoint, retries=0) as following:
        following.until(lambda: following.error)
    assert "404" in following.error or "not found" in following.error.lower()


# --- ends ---


def test_a_url_that_never_answers_ends_with_an_error(checkpoint):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/x", f"rtsp://127.0.0.1:{port}/x", f"tcp://127.0.0.1:{port}"):
            with Following(url, checkpoint, timeout_sec=0.5, retries=1) as following:
                following.until(lambda following=following: following.error)
            assert f"{url}: no answer for 0.5 s" in following.error
            assert "given up after 2 tries; check the sender, the address" in following.error
            assert following.told[0].endswith("trying again in 1 s (1 of 1)")
            assert "0 answers in" in following.told[-1]


def test_a_closed_port_is_told_at_once_and_tried_with_growing_pauses(checkpoint, monkeypatch):
    pauses = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return self.is_set()

    stop, told = Event(), []
    url = f"tcp://127.0.0.1:{free_port()}"
    preprocessing = load_recogniser(checkpoint, device=CPU).preprocessing
    reader = LiveReader(url, preprocessing, parse_span("4f"), timeout_sec=5, retries=7, stop=stop, tell=told.append)
    reader.start()
    with pytest.raises(ValueError, match="Connection refused; given up after 8 tries"):
        reader.newest_window(None, parse_span("1f"), until=None)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert [line.partition("; ")[2] for line in told[:2]] == [
        "trying again in 1 s (1 of 7)",
        "trying again in 2 s (2 of 7)",
    ]


def run_command(*arguments):
    return CliRunner().invoke(cli, ["predict", *map(str, arguments), "--device", "cpu", "--threads", "1"])


def test_a_duration_ends_a_stream_by_itself(tmp_path, checkpoint):
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    options = ["--duration", "2", "--stride", "4f", "--out", tmp_path / "a.jsonl", "--save-video", tmp_path / "a.mp4"]
    with sending(url):
        result = run_command(checkpoint, url, *options)
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert answers
    assert {"time", "latency_ms", "label", "probabilities"} <= answers[0].keys()
    assert answers[0]["source"] == url
    assert f"{len(answers)} answers in" in result.stderr
    assert "latency" in result.stderr
    info = probe(tmp_path / "a.mp4")
    assert (info.height, info.width, info.pix_fmt) == (240, 320, "yuv420p")
    assert float(measure_length(tmp_path / "a.mp4").seconds) > 1


def test_ctrl_c_ends_a_stream_cleanly(tmp_path, checkpoint):
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    command = [sys.executable, "-m", "pipeline", "predict", checkpoint, url, "--device", "cpu", "--stride", "4f"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with sending(url):
        process = subprocess.Popen(
            [*command, "--save-video", "seen.mp4"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, told = process.communicate(timeout=PATIENCE_SEC)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130, told
    answers = [json.loads(line) for line in [first, *rest.splitlines()]]
    assert [answer["window"] for answer in answers] == list(range(len(answers)))
    assert f"{len(answers)} answers in" in told
    assert "Traceback" not in told
    assert probe(tmp_path / "seen.mp4").num_frames >= 4
    assert [path.name for path in tmp_path.iterdir()] == ["seen.mp4"]


@contextlib.contextmanager
def serving(folder):
    """A plain web server; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_grey(path, *, count=30, rate=15, shape=SQUARE):
    with write_stream(path) as add:
        for index in range(count):
            add(np.full((48, 64, 3), 4 * index, np.uint8), Fraction(index, rate), Fraction(1, rate), shape)


def test_the_video_of_a_stream_keeps_the_shape_of_its_pixels(tmp_path, checkpoint):
    write_grey(tmp_path / "a.mp4", shape=Fraction(12, 11))
    with serving(tmp_path) as url:
        result = run_command(checkpoint, f"{url}/a.mp4", "--stride", "4f", "--save-video", tmp_path / "seen.mp4")
    assert result.exit_code == 0, result.stderr
    assert {frame.pixel_shape for frame in read_frames(tmp_path / "seen.mp4")} == {Fraction(12, 11)}


def test_a_file_on_a_server_is_played_once_at_its_own_speed(tmp_path, checkpoint):
    write_grey(tmp_path / "a.mp4")
    with serving(tmp_path) as url, Following(f"{url}/a.mp4", checkpoint, window="1", stride="0.25") as following:
        following.until(lambda: following.summary)
    assert following.summary.frames == 30
    assert following.summary.connections == 1
    assert following.summary.seconds > 1.8
    assert following.answers[0][0].end <= 1.5


def test_a_file_on_a_server_that_is_shorter_than_a_window_gets_one_answer(tmp_path, checkpoint):
    write_grey(tmp_path / "a.mp4", count=12)
    with serving(tmp_path) as url, Following(f"{url}/a.mp4", checkpoint, window="5", stride="1") as following:
        following.until(lambda: following.summary)
    assert [answer.num_frames for answer, _ in following.answers] == [12]
    assert following.error is None


def test_a_playlist_from_a_server_cannot_open_local_files(tmp_path, checkpoint):
    write_grey(tmp_path / "secret.mp4")
    shutil.copy(tmp_path / "secret.mp4", tmp_path / "secret.ts")
    for name in ("secret.mp4", "secret.ts"):
        for entry in (f"file://{tmp_path}/{name}", f"{tmp_path}/{name}", f"concat:{tmp_path}/{name}"):
            (tmp_path / "list.m3u8").write_text(
                f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{entry}\n#EXT-X-ENDLIST\n"
            )
            (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{entry}'\n")
            with serving(tmp_path) as url:
                for given in ("list.m3u8", "list.ffconcat"):
                    with Following(f"{url}/{given}", checkpoint, retries=0, timeout_sec=2) as following:
                        following.until(lambda following=following: following.error or following.summary)
                    assert following.answers == []
                    assert following.error, (given, entry)


def test_what_a_server_gives_that_is_no_video_is_told(tmp_path, checkpoint):
    (tmp_path / "page.html").write_text("<html>no video</html>")
    with serving(tmp_path) as url:
        for name, reason in (("page.html", "Invalid"), ("absent.ts", "404")):
            with Following(f"{url}/{name}", checkpoint, retries=0) as following:
                following.until(lambda following=following: following.error)
            assert reason in following.error


def test_a_camera_that_is_not_there_is_told(checkpoint):
    with Following("/dev/video99", checkpoint, retries=0) as following:
        following.until(lambda: following.error)
    assert "/dev/video99: No such file or directory; given up after 1 tries" in following.error


# --- the newest frames ---


class FakeVideo:
    """A live video whose frames the test hands out."""

    def __init__(self, frames):
        self.finished_file, self.damaged, self.catch_up = False, 0, CatchUp()
        self._frames = frames

    def frames(self):
        yield from self._frames


@pytest.fixture
def fake_live(monkeypatch, tmp_path):
    """Make the reader open these frames, a list for each connection; (time, segment, level) each."""
    write_grey(tmp_path / "picture.mp4", count=1)
    picture = next(iter(read_frames(tmp_path / "picture.mp4"))).picture

    def install(connections):
        left = iter(connections)

        @contextlib.contextmanager
        def fake(source, *, timeout_sec):
            frames = next(left, None)
            if frames is None:
                raise ValueError("gone")
            yield FakeVideo(
                SimpleNamespace(time=time_sec, segment=segment, lag=0.0, picture=picture)
                for time_sec, segment in frames
            )

        monkeypatch.setattr(live_reader, "open_live", fake)

    return install


def reader_of(checkpoint, length, **more):
    settings = {"timeout_sec": 1, "retries": 0, "stop": threading.Event(), "tell": lambda line: None} | more
    preprocessing = load_recogniser(checkpoint, device=CPU).preprocessing
    return LiveReader("udp://127.0.0.1:9", preprocessing, parse_span(length), **settings)


@pytest.mark.parametrize(("length", "kept"), [("10f", 10), ("2s", 30), ("0.5", 8)])
def test_only_the_newest_window_is_held(checkpoint, fake_live, length, kept):
    let_end, most = threading.Event(), []

    def coming():
        for index in range(500):
            most.append(len(reader._frames))
            yield index / 15, 0
        let_end.wait(PATIENCE_SEC)

    fake_live([coming()])
    reader = reader_of(checkpoint, length)
    reader.start()
    while reader.counts.frames < 500:
        time.sleep(0.01)
    frames = reader.newest_window(None, parse_span("1f"), until=None)
    let_end.set()
    assert [frame.number for frame in frames] == list(range(500 - kept, 500))
    assert max(most) <= kept + 1


def test_a_slow_answer_is_followed_by_the_newest_frames_not_by_a_backlog(checkpoint, fake_live):
    """The reader hands out frames while the answer is worked on; the next window holds the last of them."""
    wanted, done = threading.Semaphore(0), threading.Event()

    def coming():
        index = 0
        while wanted.acquire(timeout=PATIENCE_SEC) and not done.is_set():
            yield index / 15, 0
            index += 1

    fake_live([coming()])
    reader = reader_of(checkpoint, "4f")
    reader.start()
    newest = None
    for burst in (4, 100, 3, 57):
        for _ in range(burst):
            wanted.release()
        expected = (newest.number if newest else -1) + burst
        while reader.counts.frames <= expected:
            time.sleep(0.005)
        frames = reader.newest_window(newest, parse_span("1f"), until=None)
        newest = frames[-1]
        assert newest.number == expected
    done.set()
    wanted.release()


def test_a_window_never_joins_what_a_break_parts(checkpoint, fake_live):
    one = [(index / 15, 0) for index in range(6)]
    # The sender's clock is set anew after its sixth frame; later the connection breaks, three frames after it.
    other = [(index / 15, 1) for index in range(5)]
    fake_live([one + other, [(index / 15, 0) for index in range(3)]])
    stop = threading.Event()
    reader = reader_of(checkpoint, "4f", retries=1, stop=stop)
    windows = []
    take = reader._take

    def watched(frame, video):
        take(frame, video)
        with reader._changed:
            if reader._is_whole():
                windows.append([each.number for each in reader._frames])

    reader._take = watched
    reader.start()
    reader._thread.join()
    # Asked for more frames than will ever come, it tells what ended the stream.
    with pytest.raises(ValueError, match="gone"):
        reader.newest_window(reader._frames[-1], parse_span("1f"), until=None)
    assert windows == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [6, 7, 8, 9], [7, 8, 9, 10]]


def test_an_error_of_the_program_is_no_lost_connection(checkpoint, fake_live):
    def coming():
        yield 0.0, 0
        raise RuntimeError("a mistake in the program")

    fake_live([coming()])
    reader = reader_of(checkpoint, "4f", retries=5)
    reader.start()
    with pytest.raises(RuntimeError, match="a mistake"):
        reader.newest_window(None, parse_span("1f"), until=None)


# --- catching up ---


def test_a_sender_in_time_loses_no_packet():
    catch_up = CatchUp()
    rng = np.random.default_rng(0)
    for index in range(3000):
        now = 100 + index / 30 + rng.uniform(0, 0.5)
        assert not catch_up.drops(index / 30, now=now, key=index % 30 == 0)


def test_a_slower_clock_and_a_burst_at_the_start_are_no_lag():
    catch_up = CatchUp()
    # 10 seconds at once, as a server's store of the last picture group, then a day with a clock 0.02 % slow.
    for index in range(300):
        assert not catch_up.drops(index / 30, now=0.001 * index, key=False)
    for second in range(10, 86_400, 60):
        assert not catch_up.drops(second, now=(second - 10) * 1.0002 + 0.3, key=True)


def test_packets_are_dropped_from_a_second_of_lag_until_a_key_frame_in_time():
    catch_up, decoded, now = CatchUp(), [], 0.0
    # Decoding takes 40 ms where 33 come: without dropping, reading would be two minutes late after ten.
    for index in range(18_000):
        now = max(now, index / 30)
        if not catch_up.drops(index / 30, now=now, key=index % 30 == 0):
            decoded.append(index)
            now += 0.04
        assert catch_up.lag <= BEHIND_SEC + 0.05
    assert 0.7 < len(decoded) / 18_000 < 0.9
    after_gap = [later for earlier, later in pairwise(decoded) if later > earlier + 1]
    assert after_gap
    assert all(index % 30 == 0 for index in after_gap)
    assert catch_up.dropped == 18_000 - len(decoded)
    assert CAUGHT_UP_SEC < BEHIND_SEC


def test_a_sender_without_key_frames_is_decoded_again_after_a_while():
    catch_up = CatchUp()
    catch_up.drops(0, now=0, key=True)
    assert catch_up.drops(1, now=3, key=False)
    dropped = [catch_up.drops(time, now=time, key=False) for time in range(4, 20)]
    assert dropped[0]
    assert not dropped[-1]


def test_a_clock_that_jumps_starts_a_new_segment(tmp_path):
    """MPEG-TS whose clock goes back by an hour, as when a camera starts again behind a repeater."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, the sender, is not installed")
    parts = []
    for name, offset in (("a.ts", "3600"), ("b.ts", "0")):
        source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=15:duration=1"]
        command = ["ffmpeg", "-loglevel", "error", *source, *CODED, "-output_ts_offset", offset, "-f", "mpegts"]
        subprocess.run([*command, str(tmp_path / name)], check=True)
        parts.append((tmp_path / name).read_bytes())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def give():
            connection, _ = server.accept()
            with connection:
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=give)
        thread.start()
        with open_live(f"tcp://127.0.0.1:{server.getsockname()[1]}", timeout_sec=10) as video:
            frames = [(frame.segment, frame.time) for frame in video.frames()]
        thread.join()
    assert [segment for segment, _ in frames] == sorted(segment for segment, _ in frames)
    assert {segment for segment, _ in frames} == {0, 1}
    assert max(time_sec for _, time_sec in frames) < 1.1


# --- addresses ---


@pytest.mark.parametrize(
    ("source", "live"),
    [
        ("rtsp://h/x", True),
        ("RTSP://h/x", True),
        ("http://h", True),
        ("https://h", True),
        ("udp://@:1234", True),
        ("/dev/video0", True),
        ("/dev/video0.mp4", False),
        ("rtsp", False),
        ("http.mp4", False),
        ("file:///x.mp4", False),
        ("concat:a|b", False),
    ],
)
def test_only_named_schemes_and_cameras_are_streams(source, live):
    assert is_live(source) is live


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://admin:pass@cam:554/live", "rtsp://admin:***@cam:554/live"),
        ("rtsp://admin:p@ss:word@cam/live", "rtsp://admin:***@cam/live"),
        ("http://cam/video?user=a&pwd=secret", "http://cam/video"),
        ("udp://@:1234", "udp://@:1234"),
        ("rtsp://cam:554/a@b", "rtsp://cam:554/a@b"),
        ("rtsp://admin:ab/cd@cam/live", "rtsp://admin:***@cam/live"),
    ],
)
def test_passwords_are_not_shown(source, shown):
    assert shown_source(source) == shown


# --- writing ---


def test_frames_come_back_at_their_times_and_nothing_is_half_written(tmp_path):
    times = [Fraction(0), Fraction(1, 30), Fraction(1, 10), Fraction(1), Fraction(7, 2)]
    path = tmp_path / "a.mp4"
    with write_stream(path, crf=0) as add:
        for index, time_sec in enumerate(times):
            assert not path.exists()
            add(np.full((32, 48, 3), 40 * index, np.uint8), time_sec, Fraction(1, 2))
    convert = FrameConverter(size=None, colour_range="auto")
    found = [(frame.time, convert(frame.picture).mean()) for frame in read_frames(path)]
    assert [time_sec for time_sec, _ in found] == pytest.approx(times, abs=1e-4)
    assert [level for _, level in found] == pytest.approx([0, 40, 80, 120, 160], abs=1.5)
    assert measure_length(path).seconds == 4
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_leaves_the_older_video(tmp_path):
    write_grey(tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()

    def write():
        with write_stream(tmp_path / "a.mp4") as add:
            add(np.zeros((32, 48, 3), np.uint8), Fraction(0), Fraction(1))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write()
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_without_a_frame_there_is_no_video(tmp_path):
    with write_stream(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".a.part.mp4").symlink_to("/dev/full")

    def write():
        with write_stream(tmp_path / "a.mp4") as add:
            rng = np.random.default_rng(0)
            for index in range(60):
                add(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8), Fraction(index, 30), Fraction(1, 30))

    with pytest.raises(OSError, match=r"a\.mp4: cannot be written \(No space left on device\)"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_that_cannot_keep_up_leaves_frames_out_and_never_waits(tmp_path):
    write_grey(tmp_path / "a.mp4", count=1)
    picture = next(iter(read_frames(tmp_path / "a.mp4"))).picture
    labelling = Labelling(class_names=("a", "b"), top=1, threshold=0.0)
    with open_live_overlay(tmp_path / "seen.mp4", labelling, colour_range="auto") as overlay:
        for index in range(10 * WAITING_FRAMES):
            overlay.offer(picture, index / 30, Fraction(12, 11))
    assert overlay.left_out > 0
    assert {frame.pixel_shape for frame in read_frames(tmp_path / "seen.mp4")} == {Fraction(12, 11)}
    assert probe(tmp_path / "seen.mp4").num_frames == 10 * WAITING_FRAMES - overlay.left_out
