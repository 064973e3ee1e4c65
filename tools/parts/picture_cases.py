"""Small pictures in every format and layout that is read, with what they must be read as: for `check_pictures.py`.

Pillow and OpenCV write what they can; the rest is put together from bytes here.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Array = NDArray[Any]
Order = Literal["<", ">"]
HEIGHT, WIDTH = 40, 56
# Rows and columns of a red square on a ground that is nowhere red.
SQUARE = (slice(8, 16), slice(36, 48))
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """A file and what it holds.

    Attributes
    ----------
    name : str
        What it is.
    suffix : str
        Of its name.
    data : bytes
        The file.
    truth : ndarray of uint8, shape (H, W, 3), optional
        What must be shown, upright; None where the format is lossy.
    raw : ndarray, optional
        Samples of more than 8 bits that preprocessing must start from, (H, W, 3).
    pillow : bool
        Whether Pillow reads the file right, so that what it makes must be equalled.
    near : ndarray of uint8, shape (H, W, 3), optional
        What a lossy picture looks like, upright.
    """

    name: str
    suffix: str
    data: bytes
    truth: Array | None = None
    raw: Array | None = None
    pillow: bool = True
    near: Array | None = None


def picture() -> Array:
    """Slopes of green and blue, and the red square; shape (H, W, 3)."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([20 + rows // 2, 60 + 2 * rows + cols, 250 - 3 * cols], axis=2).astype(np.uint8)
    pixels[SQUARE] = (230, 20, 20)
    return pixels


def grey() -> Array:
    """The green of `picture`, (H, W)."""
    return np.ascontiguousarray(picture()[:, :, 1])


def alpha() -> Array:
    """Opacity that is 0 over the square, so that it would be lost where colours are multiplied by it; (H, W)."""
    opacity = np.broadcast_to(np.linspace(40, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH)).copy()
    opacity[SQUARE] = 0
    return opacity


def deep(samples: Array, white: int = 65535) -> Array:
    """Samples of 8 bits as others that are no multiples of 257."""
    wide = (samples.astype(np.uint32) * white + 127) // 255
    spread = np.arange(wide.size, dtype=np.uint32).reshape(wide.shape) * 37 % max(1, white // 1000)
    made: Array = np.minimum(wide + spread, white).astype(np.uint16)
    return made


def reduced(samples: Array, white: int = 65535) -> Array:
    """To the nearest of 8 bits."""
    levels: Array = np.floor(samples.astype(np.float64) * 255 / white + 0.5).astype(np.uint8)
    return levels


def rgb(samples: Array) -> Array:
    """Grey as three channels."""
    return np.repeat(samples.reshape(*samples.shape[:2], 1), 3, axis=2)


def upright(pixels: Array, orientation: int) -> Array:
    """As EXIF means it, spelled out."""
    turns: dict[int, Callable[[Array], Array]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    return turns[orientation](pixels)


def _saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def png(samples: Array, bits: int, kind: int, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of samples (H, W, C), each below 2 ** bits, put together by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = samples.reshape(len(samples), -1)
    if bits < 8:
        each = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in each]
    else:
        packed = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in rows]
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, kind, 0, 0, 0)
    body = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in body)


def tiff(samples: Array, photometric: int = 1, *, order: Order = "<", big: bool = False, **how: Any) -> bytes:
    """A TIFF of samples (H, W, C), put together by hand.

    Parameters
    ----------
    samples : ndarray, shape (H, W, C)
        Of any kind.
    photometric : int
        0, 1, 2 or 5.
    order : {'<', '>'}
        Of bytes.
    big : bool
        BigTIFF.
    **how
        ``planes``, ``rows`` of a strip, ``tile`` (height, width), ``deflate``, ``predictor`` (2, 3), ``extra``,
        ``orientation``, ``xmp``, ``packed`` with ``bits``: a strip that is made already.
    """
    full = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = full.shape
    rows, cols = how.get("tile", (how.get("rows", height), width))
    parts = []
    for plane in [full] if not how.get("planes") else [full[:, :, n : n + 1] for n in range(channels)]:
        for top in range(0, height, rows):
            for left in range(0, width, cols):
                part = plane[top : top + rows, left : left + cols]
                if "tile" in how:
                    part = np.pad(part, ((0, rows - part.shape[0]), (0, cols - part.shape[1]), (0, 0)))
                parts.append(_differences(part, how.get("predictor", 1), order))
    parts = how.get("packed") or parts
    parts = [zlib.compress(part) for part in parts] if how.get("deflate") else parts
    word, size = ("Q", 8) if big else ("I", 4)
    first = 16 if big else 8
    places = [first + sum(map(len, parts[:number])) for number in range(len(parts))]
    formats = {"u": 1, "i": 2, "f": 3}
    bits = how.get("bits", full.dtype.itemsize * 8)
    tags = {256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * channels), 262: ("H", [photometric])}
    tags |= {259: ("H", [8 if how.get("deflate") else 1]), 277: ("H", [channels])}
    tags |= {284: ("H", [2 if how.get("planes") else 1]), 317: ("H", [how.get("predictor", 1)])}
    tags |= {339: ("H", [formats[full.dtype.kind]] * channels)}
    where = (324, 325) if "tile" in how else (273, 279)
    tags |= {where[0]: (word, places), where[1]: (word, [len(part) for part in parts])}
    tags |= {322: ("H", [cols]), 323: ("H", [rows])} if "tile" in how else {278: ("I", [rows])}
    tags |= {338: ("H", list(how["extra"]))} if how.get("extra") else {}
    tags |= {274: ("H", [how["orientation"]])} if "orientation" in how else {}
    tags |= {700: ("B", list(how["xmp"]))} if how.get("xmp") else {}
    body = b"".join(parts)
    start = first + len(body)
    return _with_directory(body, start, tags, order, word, size)


def _with_directory(
    body: bytes, start: int, tags: dict[int, tuple[str, list[int]]], order: str, word: str, size: int
) -> bytes:
    big = size == 8
    after = start + (8 if big else 2) + len(tags) * (4 + 2 * size) + size
    entries, beyond = b"", b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > size:
            beyond, data = beyond + data, struct.pack(f"{order}{word}", after + len(beyond))
        code = {"B": 1, "H": 3, "I": 4, "Q": 16}[kind]
        entries += struct.pack(f"{order}HH{word}", tag, code, len(values)) + data.ljust(size, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HHHQ" if big else f"{order}HI", *((43, 8, 0, start) if big else (42, start)))
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    return head + body + count + entries + bytes(size) + beyond


def _differences(part: Array, predictor: int, order: Order) -> bytes:
    if predictor == 2:
        whole = part.view(f"u{part.dtype.itemsize}")
        part = np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], axis=1)
    if predictor == 3:
        size = part.dtype.itemsize
        bytes_of = part.astype(part.dtype.newbyteorder(">")).view(np.uint8).reshape(len(part), -1, size)
        lanes = bytes_of.swapaxes(1, 2).reshape(len(part), -1, part.shape[2])
        return np.concatenate([lanes[:, :1], lanes[:, 1:] - lanes[:, :-1]], axis=1).tobytes()
    return part.astype(part.dtype.newbyteorder(order)).tobytes()


def every_case() -> Iterator[Case]:
    """All of them."""
    for make in (
        _jpeg,
        _png,
        _png_deep,
        _tiff,
        _tiff_deep,
        _tiff_pillow,
        _netpbm,
        _webp,
        _gif,
        _bmp,
        _avif,
        _jp2,
        _sun,
    ):
        yield from make()


def _jpeg() -> Iterator[Case]:
    colours = Image.fromarray(picture())
    kinds: dict[str, dict[str, Any]] = {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "progressive": {"progressive": True},
        "ICC profile": {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    }
    for name, how in kinds.items():
        yield Case(f"JPEG, {name}", ".jpg", _saved(colours, "JPEG", quality=95, **how), near=picture())
    yield Case("JPEG, grey", ".jpg", _saved(Image.fromarray(grey()), "JPEG", quality=95))
    cmyk = _saved(colours.convert("CMYK"), "JPEG", quality=95)
    yield Case("JPEG, CMYK", ".jpg", cmyk, near=picture())
    adobe = cmyk.index(b"Adobe") + 11
    yield Case("JPEG, YCCK", ".jpg", cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :])
    for turn in range(1, 9):
        data = _saved(colours, "JPEG", quality=95, exif=_exif(turn))
        yield Case(f"JPEG, EXIF orientation {turn}", ".jpg", data, near=upright(picture(), turn))
    yield Case("JPEG, several pictures (MPO)", ".mpo", _saved(colours, "MPO", save_all=True, append_images=[colours]))


def _png() -> Iterator[Case]:
    pixels, level = picture(), grey()
    for bits in (1, 2, 4, 8):
        few = level >> (8 - bits)
        scaled = (few.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)
        yield Case(f"PNG, grey, {bits} bits", ".png", png(few, bits, 0), rgb(scaled))
        if bits < 8:
            palette = (b"PLTE", bytes(range(100, 100 + 3 * 2**bits)))
            truth = np.arange(100, 100 + 3 * 2**bits, dtype=np.uint8).reshape(-1, 3)[few]
            yield Case(f"PNG, palette, {bits} bits", ".png", png(few, bits, 3, [palette]), truth)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    table = (b"PLTE", colours.tobytes())
    for name, chunks in {"": [table], ", transparency": [table, (b"tRNS", bytes(range(0, 250, 10)))]}.items():
        yield Case(f"PNG, palette{name}", ".png", png(level, 8, 3, chunks), colours[level])
    both = np.dstack([pixels, alpha()])
    yield Case("PNG, RGB", ".png", png(pixels, 8, 2), pixels)
    yield Case("PNG, RGBA", ".png", png(both, 8, 6), pixels)
    yield Case("PNG, grey and alpha", ".png", png(np.dstack([level, alpha()]), 8, 4), rgb(level))
    yield Case("PNG, grey, colour key", ".png", png(level, 8, 0, [(b"tRNS", b"\0\x50")]), rgb(level))
    key = struct.pack(">HHH", *(int(each) for each in pixels[10, 40]))
    yield Case("PNG, RGB, colour key", ".png", png(pixels, 8, 2, [(b"tRNS", key)]), pixels)
    yield Case("PNG, gamma 1", ".png", png(pixels, 8, 2, [(b"gAMA", struct.pack(">I", 100000))]), pixels)
    profile = b"x\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    yield Case("PNG, ICC profile", ".png", png(pixels, 8, 2, [(b"iCCP", profile)]), pixels)
    yield Case("PNG, interlaced", ".png", _interlaced(pixels), pixels)
    for turn in range(2, 9):
        data = _saved(Image.fromarray(pixels), "PNG", exif=_exif(turn))
        yield Case(f"PNG, EXIF orientation {turn}", ".png", data, upright(pixels, turn))
    frames = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1])]}
    yield Case("PNG, animated: the first frame", ".png", _saved(Image.fromarray(pixels), "PNG", **frames), pixels)


def _interlaced(pixels: Array) -> bytes:
    """Adam7, by hand."""
    rows = b""
    for top, left, down, right in (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
        (1, 0, 2, 1),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right])
    plain = png(pixels, 8, 2)
    head = plain[16:28] + b"\1"
    packed = zlib.compress(rows)
    parts = {b"IHDR": head, b"IDAT": packed, b"IEND": b""}
    return plain[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


def _png_deep() -> Iterator[Case]:
    pixels, level, opacity = deep(picture()), deep(grey()), deep(alpha())
    for name, samples, kind in (
        ("grey", level, 0),
        ("RGB", pixels, 2),
        ("grey and alpha", np.dstack([level, opacity]), 4),
        ("RGBA", np.dstack([pixels, opacity]), 6),
    ):
        raw = rgb(level) if kind in (0, 4) else pixels
        yield Case(f"PNG, {name}, 16 bits", ".png", png(samples, 16, kind), reduced(raw), raw, pillow=False)
    key = (b"tRNS", struct.pack(">HHH", *(int(each) for each in pixels[10, 40])))
    data = png(pixels, 16, 2, [key])
    yield Case("PNG, RGB, colour key, 16 bits", ".png", data, reduced(pixels), pixels, pillow=False)
    turned = upright(pixels, 6)
    data = png(pixels, 16, 2, [(b"eXIf", _exif(6).tobytes()[6:])])
    yield Case("PNG, EXIF orientation 6, 16 bits", ".png", data, reduced(turned), turned, pillow=False)


def _tiff() -> Iterator[Case]:
    pixels, level, opacity = picture(), grey(), alpha()
    layouts: dict[str, dict[str, Any]] = {
        "strips": {"rows": 7},
        "tiles": {"tile": (16, 32)},
        "planes": {"planes": True},
        "tiles in planes": {"tile": (16, 16), "planes": True},
        "big-endian": {"order": ">"},
        "BigTIFF": {"big": True},
        "deflate": {"deflate": True, "rows": 9},
        "deflate, predictor": {"deflate": True, "predictor": 2, "rows": 9},
    }
    for name, how in layouts.items():
        yield Case(f"TIFF, RGB, {name}", ".tif", tiff(pixels, 2, **how), pixels)
    yield Case("TIFF, grey", ".tif", tiff(level), rgb(level))
    yield Case("TIFF, grey, white is zero", ".tif", tiff(255 - level, 0), rgb(level))
    yield Case("TIFF, grey and alpha", ".tif", tiff(np.dstack([level, opacity]), extra=(2,)), rgb(level))
    both = np.dstack([pixels, opacity])
    yield Case("TIFF, RGBA, unassociated", ".tif", tiff(both, 2, extra=(2,)), pixels)
    yield Case("TIFF, RGBA, associated", ".tif", tiff(_multiplied(both, 255), 2, extra=(1,)))
    yield Case("TIFF, RGB and a channel more", ".tif", tiff(both, 2, extra=(0,)), pixels)
    data = tiff(both, 2, extra=(2,), planes=True)
    yield Case("TIFF, RGBA, planes", ".tif", data, pixels)
    for turn in range(2, 9):
        data = tiff(pixels, 2, orientation=turn)
        yield Case(f"TIFF, orientation {turn}", ".tif", data, upright(pixels, turn))
    for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"):
        yield Case(f"TIFF, {name}", ".tif", _saved(Image.fromarray(pixels), "TIFF", compression=name), pixels)
    pages = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1])]}
    yield Case("TIFF, several pages: the first", ".tif", _saved(Image.fromarray(pixels), "TIFF", **pages), pixels)


def _multiplied(both: Array, white: int) -> Array:
    colours = both[:, :, :3].astype(np.uint64) * both[:, :, 3:] // white
    return np.dstack([colours.astype(both.dtype), both[:, :, 3]])


def _tiff_deep() -> Iterator[Case]:
    pixels, level, opacity = deep(picture()), deep(grey()), deep(alpha())
    both = np.dstack([pixels, opacity])
    layouts: dict[str, dict[str, Any]] = {
        "one strip": {},
        "strips": {"rows": 7},
        "tiles": {"tile": (16, 32)},
        "planes": {"planes": True, "rows": 9},
        "big-endian": {"order": ">"},
        "big-endian planes": {"order": ">", "planes": True},
        "BigTIFF": {"big": True},
        "deflate": {"deflate": True},
        "deflate, predictor": {"deflate": True, "predictor": 2},
        "deflate, predictor, big-endian": {"deflate": True, "predictor": 2, "order": ">"},
    }
    for name, how in layouts.items():
        yield Case(f"TIFF, RGB, 16 bits, {name}", ".tif", tiff(pixels, 2, **how), reduced(pixels), pixels, pillow=False)
    for name, data, raw in (
        ("grey", tiff(level), level),
        ("grey, white is zero", tiff(65535 - level, 0), level),
        ("grey and alpha", tiff(np.dstack([level, opacity]), extra=(2,)), level),
        ("RGBA, unassociated", tiff(both, 2, extra=(2,)), pixels),
        ("RGBA, planes", tiff(both, 2, extra=(2,), planes=True), pixels),
        ("LZW", _lzw(pixels), pixels),
    ):
        full = rgb(raw) if raw.ndim == 2 else raw
        yield Case(f"TIFF, {name}, 16 bits", ".tif", data, reduced(full), full, pillow=False)
    for turn in (3, 6):
        truth = upright(pixels, turn)
        data = tiff(pixels, 2, orientation=turn)
        yield Case(f"TIFF, orientation {turn}, 16 bits", ".tif", data, reduced(truth), truth, pillow=False)


def _lzw(pixels: Array) -> bytes:
    """As libtiff writes it for OpenCV."""
    return cv2.imencode(".tif", pixels[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()


def _tiff_pillow() -> Iterator[Case]:
    colours, level = Image.fromarray(picture()), Image.fromarray(grey())
    bilevel = level.convert("1")
    truth = rgb(np.asarray(bilevel).astype(np.uint8) * 255)
    for name in ("raw", "group3", "group4", "tiff_ccitt", "packbits"):
        yield Case(f"TIFF, 1 bit, {name}", ".tif", _saved(bilevel, "TIFF", compression=name), truth)
    yield Case("TIFF, JPEG", ".tif", _saved(colours, "TIFF", compression="jpeg", quality=95), near=picture())
    palette = colours.quantize(64)
    yield Case("TIFF, palette", ".tif", _saved(palette, "TIFF"), np.asarray(palette.convert("RGB")))
    yield Case("TIFF, CMYK", ".tif", _saved(colours.convert("CMYK"), "TIFF"))
    yield Case("TIFF, Lab", ".tif", _saved(colours.convert("LAB"), "TIFF"))
    few = grey() >> 4
    packed = (few[:, ::2] << 4 | few[:, 1::2]).tobytes()
    yield Case("TIFF, grey, 4 bits", ".tif", tiff(few, packed=[packed], bits=4), rgb(few * 17))
    twelve = deep(grey(), 4095)
    pairs = twelve.reshape(-1, 2).astype(np.uint32)
    joined = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    data = tiff(twelve, packed=[joined], bits=12)
    yield Case("TIFF, grey, 12 bits", ".tif", data, rgb(reduced(twelve, 4095)), rgb(twelve), pillow=False)


def _netpbm() -> Iterator[Case]:
    pixels, level = picture(), grey()
    black = level < 128
    size = b"%d %d\n" % (WIDTH, HEIGHT)
    shown = rgb((~black).astype(np.uint8) * 255)
    figures = " ".join(str(int(each)) for each in black.ravel()).encode()
    yield Case("PBM, P1", ".pbm", b"P1\n# bits\n" + size + figures, shown)
    yield Case("PBM, P4", ".pbm", b"P4\n" + size + np.packbits(black, axis=1).tobytes(), shown)
    for white in (1, 15, 100, 255, 1023, 4095, 65535):
        kind = "u1" if white < 256 else ">u2"
        for channels, samples in ((1, level), (3, pixels)):
            made = deep(samples, white)
            few = reduced(made, white) if white > 255 else np.rint(made / white * 255).astype(np.uint8)
            truth = few if channels == 3 else rgb(few)
            raw = None if white < 256 else made if channels == 3 else rgb(made)
            name, suffix = ("PPM", ".ppm") if channels == 3 else ("PGM", ".pgm")
            figures = b"\n".join(" ".join(map(str, row.ravel())).encode() for row in made)
            head = size + b"%d\n" % white
            plain, binary = (2, 5) if channels == 1 else (3, 6)
            same = white < 256
            yield Case(f"{name}, P{plain}, maxval {white}", suffix, b"P%d\n" % plain + head + figures, truth, raw, same)
            data = b"P%d\n" % binary + head + made.astype(kind).tobytes()
            yield Case(f"{name}, P{binary}, maxval {white}", suffix, data, truth, raw, same)
            both = np.dstack([made, deep(alpha(), white)])
            for extra, whole in (("", made), ("_ALPHA", both)):
                depth = channels + bool(extra)
                kindly = ("GRAYSCALE" if channels == 1 else "RGB") + extra
                said = f"P7\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {depth}\nMAXVAL {white}\nTUPLTYPE {kindly}\nENDHDR\n"
                data = said.encode() + whole.astype(kind).tobytes()
                yield Case(f"PAM, {kindly}, maxval {white}", ".pam", data, truth, raw, pillow=False)


def _webp() -> Iterator[Case]:
    pixels = picture()
    both = Image.fromarray(np.dstack([pixels, alpha()]))
    colours = Image.fromarray(pixels)
    yield Case("WebP, lossy", ".webp", _saved(colours, "WEBP", quality=95), near=pixels)
    yield Case("WebP, lossless", ".webp", _saved(colours, "WEBP", lossless=True), pixels)
    yield Case("WebP, lossless, alpha", ".webp", _saved(both, "WEBP", lossless=True, exact=True), pixels)
    yield Case("WebP, lossy, alpha", ".webp", _saved(both, "WEBP", quality=95, exact=True))
    frames = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1])], "lossless": True}
    yield Case("WebP, animated: the first frame", ".webp", _saved(colours, "WEBP", **frames), pixels)
    for turn in (3, 6):
        data = _saved(colours, "WEBP", lossless=True, exif=_exif(turn))
        yield Case(f"WebP, EXIF orientation {turn}", ".webp", data, upright(pixels, turn))


def _gif() -> Iterator[Case]:
    palette = Image.fromarray(picture()).quantize(200)
    truth = np.asarray(palette.convert("RGB"))
    for name, how in {"": {"interlace": 0}, ", interlaced": {"interlace": 1}}.items():
        yield Case(f"GIF{name}", ".gif", _saved(palette, "GIF", **how), truth)
    square = int(np.asarray(palette)[10, 40])
    yield Case("GIF, transparency", ".gif", _saved(palette, "GIF", transparency=square), truth)
    yield Case("GIF, grey", ".gif", _saved(Image.fromarray(grey()), "GIF"), rgb(grey()))
    frames = {"save_all": True, "append_images": [palette.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]}
    yield Case("GIF, animated: the first frame", ".gif", _saved(palette, "GIF", **frames), truth)


def _bmp() -> Iterator[Case]:
    pixels, level = picture(), Image.fromarray(grey())
    yield Case("BMP, 24 bits", ".bmp", _saved(Image.fromarray(pixels), "BMP"), pixels)
    yield Case("BMP, without header (DIB)", ".dib", _saved(Image.fromarray(pixels), "BMP"), pixels)
    palette = Image.fromarray(pixels).quantize(200)
    yield Case("BMP, palette, 8 bits", ".bmp", _saved(palette, "BMP"), np.asarray(palette.convert("RGB")))
    bilevel = level.convert("1")
    yield Case("BMP, 1 bit", ".bmp", _saved(bilevel, "BMP"), rgb(np.asarray(bilevel).astype(np.uint8) * 255))
    both = np.dstack([pixels, alpha()])
    yield Case("BMP, 32 bits", ".bmp", _saved(Image.fromarray(both), "BMP"), pixels)
    table = np.random.default_rng(2).integers(0, 256, (256, 4), dtype=np.uint8)
    few = grey() >> 4
    for bits, codes in ((4, few), (8, grey())):
        used = table[: 2**bits]
        truth = used[codes][:, :, 2::-1]
        if bits == 4:
            rows = [(row[::2] << 4 | row[1::2]).astype(np.uint8).tobytes() for row in codes[::-1]]
            yield Case("BMP, palette, 4 bits", ".bmp", _bitmap(4, 0, used, rows), truth)
        runs = [b"".join(bytes([1, int(code) << 4 if bits == 4 else int(code)]) for code in row) for row in codes[::-1]]
        packed = [b"\0\0".join(runs) + b"\0\1"]
        yield Case(f"BMP, RLE, {bits} bits", ".bmp", _bitmap(bits, 2 if bits == 4 else 1, used, packed), truth)
    five = (pixels >> 3).astype(np.uint16)
    words = five[:, :, 0] << 10 | five[:, :, 1] << 5 | five[:, :, 2]
    rows = [row.astype("<u2").tobytes() for row in words[::-1]]
    yield Case("BMP, 16 bits", ".bmp", _bitmap(16, 0, table[:0], rows))


def _bitmap(bits: int, compression: int, table: Array, rows: Sequence[bytes]) -> bytes:
    """A BMP by hand; rows from the bottom up."""
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    start = 54 + 4 * len(table)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, compression, len(body), 0, 0, len(table), 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + table.tobytes() + body


def _avif() -> Iterator[Case]:
    pixels = picture()
    colours = Image.fromarray(pixels)
    yield Case("AVIF", ".avif", _saved(colours, "AVIF", quality=95), near=pixels)
    yield Case("AVIF, 4:4:4", ".avif", _saved(colours, "AVIF", quality=95, subsampling="4:4:4"))
    both = Image.fromarray(np.dstack([pixels, alpha()]))
    yield Case("AVIF, alpha", ".avif", _saved(both, "AVIF", quality=95), near=pixels)
    ten = cv2.imencode(".avif", deep(pixels, 1023)[:, :, ::-1], [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    yield Case("AVIF, 10 bits: as 8", ".avif", ten, near=pixels)
    for turn in range(2, 9):
        data = _saved(colours, "AVIF", quality=95, exif=_exif(turn))
        yield Case(f"AVIF, irot, imir as orientation {turn}", ".avif", data, near=upright(pixels, turn))
    frames = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1])]}
    yield Case("AVIF, animated: the first frame", ".avif", _saved(colours, "AVIF", quality=95, **frames))


def _jp2() -> Iterator[Case]:
    pixels, level = picture(), grey()
    both = np.dstack([pixels, alpha()])
    for name, samples, truth in (
        ("grey", level, rgb(level)),
        ("RGB", pixels, pixels),
        ("RGBA", both, pixels),
        ("grey and alpha", np.dstack([level, alpha()]), rgb(level)),
    ):
        data = _saved(Image.fromarray(samples), "JPEG2000", irreversible=False)
        yield Case(f"JPEG 2000, {name}", ".jp2", data, truth)
    data = _saved(Image.fromarray(pixels), "JPEG2000", irreversible=False, no_jp2=True)
    yield Case("JPEG 2000, codestream alone", ".j2k", data, pixels)
    raw = rgb(deep(level))
    data = cv2.imencode(".jp2", deep(level), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    yield Case("JPEG 2000, grey, 16 bits", ".jp2", data, reduced(raw), raw, pillow=False)
    raw = deep(pixels)
    data = cv2.imencode(".jp2", raw[:, :, ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    yield Case("JPEG 2000, RGB, 16 bits", ".jp2", data, reduced(raw), raw, pillow=False)


def _sun() -> Iterator[Case]:
    pixels = picture()
    yield Case("Sun raster", ".ras", cv2.imencode(".ras", pixels[:, :, ::-1])[1].tobytes(), pixels)
