#!/usr/bin/env python3
"""Records the cases of this folder from a running ComfyUI 0.33.0 whose input folder holds snd0.wav, snd1.wav, film0.mp4 and the pictures of
../nodes: `record_cases.py BASE_URL [--only PREFIX] [--new]`. What the nodes saved stands beside cases.json."""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from record import record  # noqa: E402


class Graph(dict):
    def add(self, class_type, slot=0, **inputs):
        key = str(len(self) + 1)
        self[key] = {"class_type": class_type, "inputs": {name.replace("__", "."): value for name, value in inputs.items()}}
        return [key, slot]

    def sound(self, n):
        return self.add("LoadAudio", audio=f"snd{n}.wav")

    def film(self):
        return self.add("LoadVideo", file="film0.mp4")

    def keep(self, audio):
        self.add("SaveAudio", audio=audio, filename_prefix="media/x")

    def both(self, node):
        return [[node[0], 0], [node[0], 1]]

    def pictures(self, count):
        """Moving pictures of 64x68 pixels: encoders have a smallest size."""
        large = self.add("ImageScale", image=self.add("LoadImage", image="pic0.png"), upscale_method="bilinear", width=96, height=68, crop="disabled")
        cut = [self.add("ImageCrop", image=large, width=64, height=68, x=3 * at, y=0) for at in range(count)]
        return self.add("BatchImagesNode", **{f"images.image{at}": image for at, image in enumerate(cut)})

    def frames(self, video):
        parts = self.add("GetVideoComponents", video=video)
        self.add("SaveImage", images=parts, filename_prefix="media/x")
        for slot in (2, 3, 4):
            self.add("PreviewAny", source=[parts[0], slot])
        return [parts[0], 1]


CASES = {}


def case(name):
    def keep(build):
        graph = Graph()
        build(graph)
        CASES[name] = dict(graph)
    return keep


@case("load")
def _(g):
    for n in (0, 1):
        g.keep(g.sound(n))
    g.keep(g.add("LoadAudio", audio="film0.mp4"))


@case("trim")
def _(g):
    for start, duration in ((0.1, 0.25), (-0.21, 5.0), (0.5003, 0.0501)):
        g.keep(g.add("TrimAudioDuration", audio=g.sound(0), start_index=start, duration=duration))


@case("channels")
def _(g):
    left, right = g.both(g.add("SplitAudioChannels", audio=g.sound(0)))
    g.keep(left)
    g.keep(right)
    g.keep(g.add("JoinAudioChannels", audio_left=right, audio_right=left))
    g.keep(g.add("JoinAudioChannels", audio_left=g.sound(1), audio_right=left))


@case("concat")
def _(g):
    for direction in ("after", "before"):
        g.keep(g.add("AudioConcat", audio1=g.sound(0), audio2=g.sound(1), direction=direction))


@case("merge")
def _(g):
    for method in ("add", "mean", "subtract", "multiply"):
        g.keep(g.add("AudioMerge", audio1=g.sound(0), audio2=g.sound(1), merge_method=method))
        louder = g.add("AudioAdjustVolume", audio=g.sound(0), volume=9)
        g.keep(g.add("AudioMerge", audio1=g.sound(1), audio2=louder, merge_method=method))


@case("volume")
def _(g):
    for decibels in (-7, 0, 3, 12):
        g.keep(g.add("AudioAdjustVolume", audio=g.sound(0), volume=decibels))


@case("silence")
def _(g):
    g.keep(g.add("EmptyAudio", duration=0.12345, sample_rate=8000, channels=1))
    g.keep(g.add("AudioConcat", audio1=g.add("EmptyAudio", duration=0.05, sample_rate=48000, channels=2), audio2=g.sound(0), direction="after"))


@case("equalizer")
def _(g):
    bands = ("low_gain_dB", "mid_gain_dB", "high_gain_dB")
    for gains in ((6.0, 0.0, 0.0), (0.0, -9.5, 0.0), (0.0, 0.0, 4.2), (-12.0, 8.0, -24.0), (9.0, 11.5, 6.0)):
        settings = dict(low_freq=130, mid_freq=1100, mid_q=1.3, high_freq=4000)
        g.keep(g.add("AudioEqualizer3Band", audio=g.sound(0), **dict(zip(bands, gains)), **settings))


@case("formats")
def _(g):
    g.add("SaveAudioMP3", audio=g.sound(0), filename_prefix="media/x", quality="V0")
    g.add("SaveAudioMP3", audio=g.sound(1), filename_prefix="media/x", quality="128k")
    g.add("SaveAudioOpus", audio=g.sound(0), filename_prefix="media/x", quality="128k")
    g.add("SaveAudioAdvanced", audio=g.sound(1), filename_prefix="media/x", format="opus", format__quality="64k")
    g.add("SaveAudioAdvanced", audio=g.sound(1), filename_prefix="media/x", format="mp3", format__quality="320k")
    g.add("SaveAudioAdvanced", audio=g.sound(0), filename_prefix="media/x", format="flac")
    g.add("PreviewAudio", audio=g.sound(1))


@case("components")
def _(g):
    g.keep(g.frames(g.film()))


for at, (start, duration) in enumerate(((0.3, 0.5), (-0.4, 0.0), (0.0, 0.25), (0.81, 9.0))):
    @case(f"slice_{at}")
    def _(g, start=start, duration=duration):
        g.keep(g.frames(g.add("Video Slice", video=g.film(), start_time=start, duration=duration, strict_duration=False)))


@case("slice_again")
def _(g):
    part = g.add("Video Slice", video=g.film(), start_time=0.2, duration=0.9, strict_duration=True)
    g.keep(g.frames(g.add("Video Slice", video=part, start_time=0.2, duration=0.3, strict_duration=True)))


@case("create")
def _(g):
    made = g.add("CreateVideo", images=g.pictures(6), fps=12.5, audio=g.sound(0))
    g.keep(g.frames(made))
    for container, inner in (("auto", {}), ("mp4", {"codec": "h264", "codec.encoding": "re-encode", "codec.encoding.crf": 14.0, "codec.encoding.color_space": "auto"}),
                             ("mkv", {"codec": "h264"}), ("webm", {"codec": "auto"}), ("mp4", {"codec": "av1"})):
        inner = {f"format.{name}": value for name, value in (inner or {"codec": "auto"}).items()}
        g.add("SaveVideo", video=made, filename_prefix="media/x", format=container, **inner)


@case("ten_bit")
def _(g):
    made = g.add("CreateVideo", images=g.pictures(3), fps=24.0, bit_depth=10)
    g.add("SaveVideo", video=made, filename_prefix="media/x", format="mp4", **{"format.codec": "h264"})
    hdr = {"format.codec": "h264", "format.codec.encoding": "re-encode", "format.codec.encoding.crf": 10.0, "format.codec.encoding.color_space": "HDR"}
    g.add("SaveVideo", video=made, filename_prefix="media/x", format="mkv", **hdr)


@case("again")
def _(g):
    """Films from files: as they are, in another container, encoded anew, a part."""
    film = g.film()
    part = g.add("Video Slice", video=film, start_time=0.3, duration=0.5, strict_duration=False)
    g.add("SaveVideo", video=film, filename_prefix="media/x", format="auto", **{"format.codec": "auto"})
    g.add("SaveVideo", video=film, filename_prefix="media/x", format="mkv", **{"format.codec": "auto"})
    g.add("SaveVideo", video=film, filename_prefix="media/x", format="webm", **{"format.codec": "auto"})
    g.add("SaveVideo", video=part, filename_prefix="media/x", format="mp4", **{"format.codec": "auto"})


@case("old_names")
def _(g):
    g.add("SaveVideo", video=g.film(), filename_prefix="media/x", format="auto", codec="auto")


@case("webm")
def _(g):
    g.add("SaveWEBM", images=g.pictures(4), filename_prefix="media/x", codec="vp9", fps=10.0, crf=20.0)
    g.add("SaveWEBM", images=g.pictures(4), filename_prefix="media/x", codec="av1", fps=10.0, crf=20.0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--only", default="")
    parser.add_argument("--new", action="store_true")
    arguments = parser.parse_args()
    return 0 if record(arguments.base, HERE, CASES, arguments.only, arguments.new) else 1


if __name__ == "__main__":
    sys.exit(main())
