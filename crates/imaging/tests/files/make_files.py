"""Writes picture files of all kinds that are read, and what ComfyUI's LoadImage makes of each with Pillow.

Run in this folder: python3 make_files.py. Needs numpy, Pillow 11.3 or newer (with AVIF), and cjpeg of libjpeg-turbo for what Pillow does
not write. Beside NAME lies NAME.png: the frames below each other, and as alpha the inverted mask, if it has the picture's size.
"""

import io
import random
import struct
import subprocess

import numpy as np
from PIL import Image, ImageFile, ImageOps, ImageSequence

random.seed(7)
numbers = np.random.default_rng(7)


def picture(mode, width=37, height=29, noise=True):
    """Waves and a patch of noise: smooth colours show the upsampling of chroma, edges what lies between blocks."""
    bands = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 110 * np.sin(x * (0.09 + 0.05 * band) + y * (0.17 - 0.04 * band) + band) for band in range(bands)]
    array = np.stack(waves, -1).astype(np.uint8)
    if noise:
        array[height // 2 :, width // 2 :] = numbers.integers(0, 256, array[height // 2 :, width // 2 :].shape)
    if mode == "1":
        return Image.fromarray(array[:, :, 0]).convert("1")
    if mode == "P":
        image = Image.fromarray(array[:, :, 0] % 16).convert("P")
        image.putpalette([int(value) for value in numbers.integers(0, 256, 48)])
        return image
    return Image.fromarray(array[:, :, 0], "L") if bands == 1 else Image.fromarray(array, mode)


def numbers_of(kind, values):
    return Image.fromarray(np.resize(np.array(values, kind), (9, 13)))


def file_of(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def cjpeg(*options):
    source = file_of(picture("RGB"), "PPM")
    return subprocess.run(["cjpeg", *options], input=source, stdout=subprocess.PIPE, check=True).stdout


def load(file):
    """The frames and masks that LoadImage gives, as bytes."""

    def retried(call):
        try:
            return call()
        except (OSError, ValueError):
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            return call()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    frames = []
    for frame in ImageSequence.Iterator(Image.open(io.BytesIO(file))):
        frame = retried(lambda: ImageOps.exif_transpose(frame))
        if frame.mode == "I":
            frame = frame.point(lambda value: value * (1 / 255))
        color = np.array(frame.convert("RGB"))
        if frames and color.shape[:2] != frames[0].shape[:2]:
            continue
        alpha = np.full(color.shape[:2], 255, np.uint8)
        if "A" in frame.getbands():
            alpha = np.array(frame.getchannel("A"))
        elif frame.mode == "P" and "transparency" in frame.info:
            alpha = np.array(frame.convert("RGBA").getchannel("A"))
        frames.append(np.dstack([color, alpha]))
    return np.concatenate(frames)


def bmp_of_16_bits(compression, masks):
    data = numbers.integers(0, 65536, 10 * 7).astype("<u2").tobytes()
    offset = 54 + len(masks)
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", offset + len(data), 0, offset, 40, 10, 7, 1, 16, compression, len(data), 0, 0, 0, 0)
    return header + masks + data


def exif(orientation):
    data = Image.Exif()
    data[0x112] = orientation
    return data


def files():
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        name = sampling.replace(":", "")
        yield f"{name}.jpg", file_of(picture("RGB"), "JPEG", subsampling=sampling, quality=80)
        yield f"{name}_progressive.jpg", file_of(picture("RGB", 33, 18), "JPEG", subsampling=sampling, quality=60, progressive=True)
    yield "440.jpg", cjpeg("-sample", "1x2")
    yield "411.jpg", cjpeg("-sample", "4x1")
    yield "410.jpg", cjpeg("-sample", "4x2")
    yield "arithmetic.jpg", cjpeg("-arithmetic", "-sample", "2x2")
    yield "arithmetic_progressive.jpg", cjpeg("-arithmetic", "-progressive")
    yield "one_pixel.jpg", file_of(picture("RGB", 1, 1), "JPEG", subsampling="4:2:0")
    yield "restart.jpg", file_of(picture("RGB"), "JPEG", subsampling="4:2:0", restart_marker_blocks=2)
    yield "turned.jpg", file_of(picture("RGB"), "JPEG", subsampling="4:2:2", exif=exif(6))
    yield "mirrored.jpg", file_of(picture("RGB"), "JPEG", exif=exif(5))
    yield "rgb.jpg", file_of(picture("RGB"), "JPEG", keep_rgb=True, subsampling="4:4:4")
    yield "grey.jpg", file_of(picture("L"), "JPEG")
    yield "cmyk.jpg", file_of(picture("CMYK"), "JPEG", subsampling="4:2:0")
    yield "cut.jpg", file_of(picture("RGB", 64, 64, noise=False), "JPEG", subsampling="4:2:0")[:-400]
    yield "cut_progressive.jpg", file_of(picture("RGB", 64, 64, noise=False), "JPEG", progressive=True)[:-300]

    wide = [0, 1, 100, 200, 255, 256, 300, 32768, 40000, 65535]
    yield "wide.tif", file_of(numbers_of(np.uint16, wide), "TIFF")
    yield "whole.tif", file_of(numbers_of(np.int32, [-4, 70000, *wide]), "TIFF")
    yield "float.tif", file_of(numbers_of(np.float32, [-1, 0, 0.5, 1, 1.9, 200.7, 255, 300]), "TIFF", compression="tiff_lzw")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        for compression in ("raw", "tiff_adobe_deflate", "tiff_lzw") if mode in ("P", "RGB") else ("packbits",):
            yield f"{mode}_{compression}.tif", file_of(picture(mode), "TIFF", compression=compression)
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode}_jpeg.tif", file_of(picture(mode), "TIFF", compression="jpeg")
    yield "fax.tif", file_of(picture("1"), "TIFF", compression="group4")
    yield "turned.tif", file_of(picture("RGB"), "TIFF", tiffinfo={274: 8})
    yield "tiled.tif", file_of(picture("RGB"), "TIFF", compression="tiff_lzw", tiffinfo={322: 16, 323: 16})
    pages = [picture("RGB", 20, 9), picture("L", 20, 9), picture("RGB", 21, 9), picture("P", 20, 9)]
    yield "pages.tif", file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode}.bmp", file_of(picture(mode), "BMP")
    yield "555.bmp", bmp_of_16_bits(0, b"")
    yield "565.bmp", bmp_of_16_bits(3, struct.pack("<III", 0xF800, 0x07E0, 0x001F))
    for mode in ("RGB", "RGBA", "L"):
        yield f"{mode}.ico", file_of(picture(mode, 32, 32), "ICO", sizes=[(16, 16), (32, 32)])
        yield f"{mode}_bmp.ico", file_of(picture(mode, 32, 32), "ICO", bitmap_format="bmp", sizes=[(16, 16), (32, 32)])
    yield "bits.pbm", file_of(picture("1"), "PPM")
    yield "grey.pgm", file_of(picture("L"), "PPM")
    yield "wide.pgm", file_of(numbers_of(np.uint16, wide), "PPM")
    yield "colors.ppm", file_of(picture("RGB"), "PPM")
    yield "plain.ppm", b"P3 # text\n3 2\n100\n" + b" ".join(b"%d" % value for value in range(0, 90, 5)) + b"\n"
    for mode in ("L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.tga", file_of(picture(mode), "TGA", rle=mode in ("P", "RGB"))
    for mode in ("1", "L", "P", "RGB"):
        yield f"{mode}.pcx", file_of(picture(mode), "PCX")
    for mode in ("L", "RGB", "RGBA"):
        yield f"{mode}.sgi", file_of(picture(mode), "SGI")
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield f"{mode}.jp2", file_of(picture(mode), "JPEG2000")
    yield "RGBA.qoi", file_of(picture("RGBA"), "QOI")
    for mode in ("RGB", "RGBA"):
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:0:0"):
            name = sampling.replace(":", "")
            yield f"{mode}_{name}.avif", file_of(picture(mode), "AVIF", subsampling=sampling, quality=70)
    yield "limited.avif", file_of(picture("RGB"), "AVIF", range="limited")
    yield "turned.avif", file_of(picture("RGB"), "AVIF", exif=exif(6))
    transparent = picture("P")
    yield "transparent.gif", file_of(transparent, "GIF", transparency=3)
    yield "transparent.png", file_of(transparent, "PNG", transparency=3)
    yield "wide.png", file_of(numbers_of(np.uint16, wide), "PNG")
    yield "lossy.webp", file_of(picture("RGBA"), "WEBP", quality=60)
    frames = [picture("RGB", 20, 9) for _ in range(3)]
    yield "frames.webp", file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


for name, file in files():
    with open(name, "wb") as out:
        out.write(file)
    Image.fromarray(load(file), "RGBA").save(f"{name}.png", optimize=True)
