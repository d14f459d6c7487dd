"""Options, as far as tests need them."""
import argparse
import enum


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, name):
        return next((method for method in cls if method.value == name), None)


parser = argparse.ArgumentParser()
parser.add_argument("--listen", nargs="?", default="127.0.0.1", const="0.0.0.0")
parser.add_argument("--port", type=int, default=8188)
parser.add_argument("--cpu", action="store_true")
parser.add_argument("--preview-method", type=LatentPreviewMethod, default=LatentPreviewMethod.NoPreviews)
parser.add_argument("--base-directory")
parser.add_argument("--stub-start-seconds", type=float, default=0.0, help="how long the start takes")
parser.add_argument("--stub-start-fails", action="store_true", help="the start ends with an exception")
parser.add_argument("--stub-start-exits", type=int, help="the start ends with this status")
args, _ = parser.parse_known_args()
