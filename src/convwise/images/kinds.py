"""Which files are pictures: by the suffix, and where that says nothing by the first bytes."""

from __future__ import annotations

import os

# What decode.FORMATS names, under every suffix that it goes by.
READ = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".bmp", ".dib", ".webp",
    ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".gif", ".avif",
})  # fmt: skip
CAMERA_RAW = "a camera's raw file"
# Pictures that are not read. They are named, and counted as pictures: none may vanish as 'some
# other file'.
UNREAD: dict[str, str] = {
    ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC",
    ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jpx": "JPEG 2000", ".jpf": "JPEG 2000",
    ".jxl": "JPEG XL", ".jxr": "JPEG XR", ".psd": "Photoshop", ".xcf": "GIMP", ".svg": "SVG",
    ".eps": "EPS",
    ".tga": "TGA", ".exr": "OpenEXR", ".hdr": "Radiance HDR", ".dds": "DDS", ".ico": "icon",
    ".qoi": "QOI",
    ".dcm": "DICOM", ".dicom": "DICOM", ".nii": "NIfTI", ".nii.gz": "NIfTI", ".fits": "FITS",
    ".fit": "FITS",
    ".czi": "Zeiss CZI",
    ".dng": CAMERA_RAW, ".cr2": CAMERA_RAW, ".cr3": CAMERA_RAW, ".nef": CAMERA_RAW,
    ".arw": CAMERA_RAW,
    ".orf": CAMERA_RAW, ".rw2": CAMERA_RAW, ".raf": CAMERA_RAW, ".pef": CAMERA_RAW,
    ".srw": CAMERA_RAW,
}  # fmt: skip
HEAD = 132  # bytes that tell the kind
# (offset, bytes) -> kind, '' for one that is read.
SIGNS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", ""), (0, b"\xff\xd8\xff", ""), (8, b"WEBPVP8", ""), (0, b"II*\0", ""),
    (0, b"MM\0*", ""),
    (0, b"GIF87a", ""), (0, b"GIF89a", ""), (6, b"\0\0\0\0", ""),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"), (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"8BPS", "Photoshop"), (0,
    b"gimp xcf", "GIMP"),
    (0, b"%!PS", "EPS"), (0, b"qoif", "QOI"), (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"<svg",
    "SVG"),
    (128, b"DICM", "DICOM"), (0, b"SIMPLE  =", "FITS"), (0, b"#?RADIANCE", "Radiance HDR"), (0,
    b"DDS |", "DDS"),
    (0, b"II\xbc\x01", "JPEG XR"), (0, b"ZISRAWFILE", "Zeiss CZI"),
)  # fmt: skip
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def suffix(name: str) -> str:
    """'.jpg' of 'a/b.JPG'; '.nii.gz' is one of its own."""
    return ".nii.gz" if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture, read or not, by its suffix."""
    return suffix(name) in READ or suffix(name) in UNREAD


def looks_like_picture(head: bytes) -> bool:
    """Whether the first HEAD bytes of a file are those of a picture, read or not."""
    return kind(head) is not None


def kind(head: bytes) -> str | None:
    """Which picture begins so: '' for a kind that is read, the name of another, or None."""
    if head[4:8] == b"ftyp":  # ISO base media: the brands say which
        brands = head[8:40]
        return (
            ""
            if b"avif" in brands
            else "HEIC"
            if any(brand in brands for brand in HEIC_BRANDS)
            else None
        )
    for offset, sign, name in SIGNS:
        if head[offset : offset + len(sign)] == sign and (offset != 6 or head[:2] == b"BM"):
            return name
    return None


def refusal(name: str) -> str | None:
    """Why a file of this name is not tried: a camera's raw file begins with a thumbnail."""
    return unread(CAMERA_RAW) if UNREAD.get(suffix(name)) == CAMERA_RAW else None


def unread(name: str) -> str:
    """What is said of a picture of a kind that is not read."""
    return f"{name}, which is not read: save it as PNG or JPEG"
