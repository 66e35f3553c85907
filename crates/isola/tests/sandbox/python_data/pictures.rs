//! Pillow in the runtime `python-data`: formats, drawing, arrays, and damaged files.

use isola::{Error, Limit, Runtime, Sandbox, args};
use serde_json::{Value as Json, json};

use super::loaded;
use crate::fixture::started;

const PICTURES: &str = r#"
import hashlib
import io
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageMath, ImageMorph, features

def drawn(mode="RGB", size=(60, 40)):
    image = Image.new("RGB", size, (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((5, 5, 30, 30), fill=(200, 30, 30))
    draw.ellipse((20, 10, 55, 35), fill=(20, 60, 220), outline=(0, 0, 0), width=2)
    return image.convert(mode)

def stored(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()

def again(image, format, **options):
    """A picture, saved and read."""
    read = Image.open(io.BytesIO(stored(image, format, **options)))
    read.load()
    return read

def difference(a, b):
    """The largest mean difference of a channel."""
    difference = np.asarray(ImageChops.difference(a, b), dtype=float)
    return float(difference.reshape(-1, difference.shape[-1]).mean(axis=0).max())

def libraries():
    return [features.check(name) for name in ("zlib", "jpg", "freetype2")]

def lossless(format, mode):
    image = drawn(mode)
    read = again(image, format)
    return [read.format, read.mode, read.size == image.size,
            read.convert("RGB").tobytes() == image.convert("RGB").tobytes()]

def jpeg():
    image = drawn()
    rows = []
    for options in ({}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"optimize": True},
                    {"restart_marker_rows": 1}, {"keep_rgb": True}, {"smooth": 10},
                    {"qtables": "web_low"}, {"progressive": True, "optimize": True, "quality": 100}):
        read = again(image, "JPEG", **options)
        rows.append([read.format, read.mode, read.size == image.size, difference(read, image) < 16])
    return rows

def jpeg_modes():
    return [again(drawn(mode), "JPEG").mode for mode in ("L", "RGB", "CMYK", "YCbCr")]

def jpeg_data():
    """The data beside the pixels, and a smaller picture that is decoded directly."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = stored(drawn(size=(640, 480)), "JPEG", dpi=(300, 300), comment=b"made here", exif=exif,
                  icc_profile=b"profile" * 20_000)
    image = Image.open(io.BytesIO(data))
    found = [image.info["dpi"], image.info["comment"].decode(), image.getexif()[0x010E],
             len(image.info["icc_profile"])]
    image.draft("L", (100, 100))
    image.load()
    return [*found, image.mode, image.size]

def animation():
    frames = [drawn().rotate(angle) for angle in (0, 30, 60)]
    data = stored(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    read = Image.open(io.BytesIO(data))
    read.seek(2)
    return [read.n_frames, read.info["duration"], read.size]

def files():
    drawn().save("/tmp/drawn.png")
    drawn().save("/tmp/drawn.jpg")
    with Image.open("/tmp/drawn.png") as png, Image.open("/tmp/drawn.jpg") as jpg:
        return [png.format, jpg.format, png.getpixel((10, 10))]

def text(size):
    image = Image.new("L", (400, 100))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(image).text((10, 10), "Grüße, 123", fill=255, font=font)
    left, top, right, bottom = image.getbbox()
    return [font.getname(), right - left, bottom - top, len(set(image.tobytes())) > 20]

def large_text():
    # The rasterizer divides a glyph that needs more memory than it has into bands.
    font = ImageFont.load_default(size=2000)
    image = Image.new("L", (2400, 2400))
    ImageDraw.Draw(image).text((0, 0), "@", fill=255, font=font)
    small = image.resize((240, 240), Image.Resampling.BOX)
    expected = Image.new("L", (240, 240))
    ImageDraw.Draw(expected).text((0, 0), "@", fill=255, font=ImageFont.load_default(size=200))
    a, b = np.asarray(small, dtype=float), np.asarray(expected, dtype=float)
    return [abs(a.mean() - b.mean()) < 1, float(np.abs(a - b).mean()) < 4, image.getbbox() is not None]

def bitmap_text():
    image = Image.new("1", (200, 40))
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), "abc", fill=1, font=ImageFont.load_default(size=20), stroke_width=1)
    draw.multiline_text((60, 0), "de\nf", fill=1, font=ImageFont.load_default_imagefont())
    return image.getbbox() is not None

def changed():
    image = drawn()
    thumbnail = image.copy()
    thumbnail.thumbnail((20, 20))
    blurred = image.filter(ImageFilter.GaussianBlur(2))
    sharp = blurred.filter(ImageFilter.UnsharpMask())
    return [
        image.resize((120, 80), Image.Resampling.LANCZOS).size,
        thumbnail.size,
        image.rotate(90, expand=True).size,
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).getpixel((49, 10)),
        image.crop((0, 0, 10, 10)).size,
        blurred.getpixel((5, 5)) != image.getpixel((5, 5)) and sharp.size == image.size,
        image.quantize(4).convert("RGB").getcolors(256) is not None,
        image.convert("LA").getbands(),
        image.filter(ImageFilter.MedianFilter(3)).size,
        image.histogram()[250] > 0,
    ]

def calculated():
    a, b = Image.new("I", (4, 4), 20), Image.new("I", (4, 4), 22)
    total = ImageMath.lambda_eval(lambda given: given["a"] + given["b"], a=a, b=b)
    lut = ImageMorph.LutBuilder(op_name="dilation4").build_lut()
    dot = Image.new("L", (5, 5))
    dot.putpixel((2, 2), 255)
    count, grown = ImageMorph.MorphOp(lut=lut).apply(dot)
    return [total.getpixel((0, 0)), count, len(grown.getcolors())]

def arrays():
    image = drawn()
    array = np.asarray(image)
    back = Image.fromarray(255 - array)
    gray = Image.fromarray((np.arange(256, dtype=np.uint8)).reshape(16, 16))
    numbers = Image.fromarray(np.full((3, 2), 0.5, dtype=np.float32))
    return [array.shape, str(array.dtype), back.getpixel((10, 10)), gray.mode, gray.getpixel((15, 15)),
            numbers.mode, numbers.size, type(image.__arrow_c_schema__()).__name__,
            len(image.__arrow_c_array__())]
"#;

async fn call(sandbox: &Sandbox, function: &str) -> Json {
    let value = sandbox.run(function, args![]).await;
    value.unwrap_or_else(|error| panic!("{function}: {error}")).to().unwrap()
}

#[tokio::test]
async fn pictures_are_saved_and_read_in_all_formats() {
    let sandbox = loaded(PICTURES).await;
    assert_eq!(call(&sandbox, "libraries").await, json!([true, true, true]));
    for (format, modes) in [
        ("PNG", &["1", "L", "P", "RGB", "RGBA"][..]),
        ("GIF", &["L", "P"]),
        ("BMP", &["1", "L", "RGB"]),
        ("PPM", &["1", "L", "RGB"]),
        ("TIFF", &["L", "RGB", "RGBA"]),
        ("TGA", &["L", "RGB", "RGBA"]),
        ("ICO", &["RGBA"]),
    ] {
        for mode in modes {
            let read = sandbox.run("lossless", args![format, *mode]).await;
            let read: Json = read.unwrap_or_else(|e| panic!("{format} {mode}: {e}")).to().unwrap();
            if format == "ICO" {
                // It is stored in several sizes that are squares.
                assert_eq!(read[0], "ICO");
                continue;
            }
            assert_eq!(read[0], format, "{mode}");
            assert_eq!([&read[2], &read[3]], [&json!(true); 2], "{format} {mode}: {read}");
        }
    }
    let jpeg = call(&sandbox, "jpeg").await;
    let rows = jpeg.as_array().unwrap();
    assert_eq!(rows.len(), 9);
    for row in rows {
        assert_eq!(*row, json!(["JPEG", "RGB", true, true]), "{jpeg}");
    }
    assert_eq!(call(&sandbox, "jpeg_modes").await, json!(["L", "RGB", "CMYK", "RGB"]));
    assert_eq!(
        call(&sandbox, "jpeg_data").await,
        json!([[300, 300], "made here", "a description", 140_000, "L", [160, 120]])
    );
    assert_eq!(call(&sandbox, "animation").await, json!([3, 100, [60, 40]]));
    assert_eq!(call(&sandbox, "files").await, json!(["PNG", "JPEG", [200, 30, 30]]));
}

#[tokio::test]
async fn text_is_drawn_with_the_default_font_in_any_size() {
    let sandbox = loaded(PICTURES).await;
    let mut widths = Vec::new();
    for size in [10, 20, 40] {
        let drawn: Json = sandbox.run("text", args![size]).await.unwrap().to().unwrap();
        assert_eq!(drawn[0], json!(["Aileron", "Regular"]));
        assert_eq!(drawn[3], json!(true), "{size}: no gray edges");
        widths.push(drawn[1].as_f64().unwrap());
    }
    for pair in widths.windows(2) {
        assert!((1.8..2.2).contains(&(pair[1] / pair[0])), "{widths:?}");
    }
    assert_eq!(call(&sandbox, "large_text").await, json!([true, true, true]));
    assert_eq!(call(&sandbox, "bitmap_text").await, json!(true));
}

#[tokio::test]
async fn pictures_are_changed_and_become_arrays() {
    let sandbox = loaded(PICTURES).await;
    assert_eq!(
        call(&sandbox, "changed").await,
        json!([
            [120, 80],
            [20, 13],
            [40, 60],
            [200, 30, 30],
            [10, 10],
            true,
            true,
            ["L", "A"],
            [60, 40],
            true
        ])
    );
    assert_eq!(call(&sandbox, "calculated").await, json!([42, 4, 2]));
    assert_eq!(
        call(&sandbox, "arrays").await,
        json!([[40, 60, 3], "uint8", [55, 225, 225], "L", 255, "F", [2, 3], "PyCapsule", 2])
    );
}

#[tokio::test]
async fn a_picture_that_code_ends_with_is_shown() {
    let sandbox = started(Runtime::PythonData).await;
    let code = "from PIL import Image, ImageDraw\n\
                image = Image.new('RGB', (30, 20), 'white')\n\
                ImageDraw.Draw(image).line((0, 0, 29, 19), fill='red')\n\
                image";
    let execution = sandbox.run_code(code).await.unwrap();
    assert_eq!(execution.error, None);
    let png = execution.results[0].png().unwrap();
    // In base64: the signature, and the header with the width and the height.
    assert_eq!(&png[..32], "iVBORw0KGgoAAAANSUhEUgAAAB4AAAAU");
}

const HOSTILE: &str = r#"
import io
import random
import struct
import zlib
from PIL import Image, ImageDraw, ImageFont

def stored(format, **options):
    image = Image.radial_gradient("L").resize((97, 61))
    image = Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()

def load(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size

def segment(marker, data):
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data

def replaced(data, marker, change):
    """A JPEG in which the first segment of a kind has other content."""
    at = 2
    while data[at + 1] != marker:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
    return data[:at] + change(data[at + 4:end]) + data[end:]

# Each of these is an error of libjpeg itself, past what Pillow looks at.

def no_quantization():
    load(replaced(stored("JPEG"), 0xDB, lambda old: b""))

def bad_huffman_table():
    load(replaced(stored("JPEG"), 0xC4, lambda old: segment(0xC4, old[:1] + b"\xff" * 16 + old[17:])))

def too_many_codes():
    load(replaced(stored("JPEG"), 0xC4, lambda old: segment(
        0xC4, old[:1] + bytes([9] + [0] * 15) + old[17:26])))

def bad_table_index():
    load(replaced(stored("JPEG"), 0xC4, lambda old: segment(0xC4, b"\x0f" + old[1:])))

def bad_sampling():
    load(replaced(stored("JPEG"), 0xC0, lambda old: segment(0xC0, old[:7] + b"\x00" + old[8:])))

def fractional_sampling():
    load(replaced(stored("JPEG"), 0xC0, lambda old: segment(
        0xC0, old[:7] + b"\x31" + old[8:10] + b"\x21" + old[11:13] + b"\x11" + old[14:])))

def two_headers():
    load(replaced(stored("JPEG"), 0xC0, lambda old: segment(0xC0, old) * 2))

def arithmetic():
    load(replaced(stored("JPEG"), 0xC0, lambda old: segment(0xC9, old)))

def unknown_component():
    load(replaced(stored("JPEG"), 0xDA, lambda old: segment(0xDA, old[:1] + b"\x77" + old[2:])))

def bad_progression():
    load(replaced(stored("JPEG", progressive=True), 0xDA, lambda old: segment(
        0xDA, old[:-3] + b"\x3f\x01\x00")))

def another_size():
    # libjpeg finds more rows than Pillow has read.
    data = stored("JPEG")
    taller = replaced(data, 0xC0, lambda old: segment(0xC0, old[:1] + struct.pack(">H", 200) + old[3:]))
    image = Image.open(io.BytesIO(taller))
    image._size = (97, 61)
    image.tile = [image.tile[0]._replace(extents=(0, 0, 97, 61))]
    image.load()

def wider():
    data = stored("JPEG")
    wide = replaced(data, 0xC0, lambda old: segment(0xC0, old[:3] + struct.pack(">H", 2000) + old[5:]))
    image = Image.open(io.BytesIO(wide))
    image._size = (97, 61)
    image.tile = [image.tile[0]._replace(extents=(0, 0, 97, 61))]
    image.load()

def encode(size, comment=None):
    """Encodes noise, progressively, into a buffer of a size."""
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(3 * 64 * 64))
    config = (100, True, 0, False, False, 0, (0, 0), 0, 0, 0, None, comment, b"", b"")
    encoder = Image._getencoder("RGB", "jpeg", "RGB", config)
    encoder.setimage(noise.im, (0, 0, 64, 64))
    status = 0
    while status == 0:
        _, status, _ = encoder.encode(size)
    if status < 0:
        raise OSError(f"encoder error {status}")

def too_long_for_a_segment():
    encode(1 << 20, b"x" * 70_000)

def too_wide_for_jpeg():
    Image.new("L", (65_501, 1)).save(io.BytesIO(), "JPEG")

def too_noisy_for_the_buffer():
    # A progressive picture is written at once, and does not fit.
    encode(2000)

def truncated(format):
    data = stored(format)
    load(data[: len(data) // 2])

def png(width, height, data=b"", kind=2):
    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body

def bad_checksum():
    data = bytearray(stored("PNG"))
    data[-20] ^= 0xFF
    load(bytes(data))

def large_claims(format):
    if format == "PNG":
        data = png(65_000, 65_000)
    elif format == "GIF":
        data = b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + stored("GIF")[10:]
    else:
        data = replaced(stored("JPEG"), 0xC0, lambda old: segment(
            0xC0, old[:1] + struct.pack(">HH", 65_000, 65_000) + old[5:]))
    load(data)

def unlimited_claims():
    Image.MAX_IMAGE_PIXELS = None
    load(png(65_000, 65_000))

def bomb():
    # Its data is small, and its picture large.
    Image.MAX_IMAGE_PIXELS = 10_000
    load(png(1_000, 1_000, bytes(3_001 * 1_000)))

def bomb_that_fits_nowhere():
    Image.MAX_IMAGE_PIXELS = None
    Image.new("RGB", (30_000, 30_000))

def long_text_chunk():
    content = b"zTXt" + b"key\0\0" + zlib.compress(bytes(64 << 20))
    name, content = content[:4], content[4:]
    part = struct.pack(">I", len(content)) + name + content
    part += struct.pack(">I", zlib.crc32(name + content))
    data = png(1, 1, b"\0\0\0\0")
    load(data[:33] + part + data[33:])

def progressive_without_memory():
    # The coefficients of all of it are kept, beside its pixels.
    kept = []
    data = io.BytesIO()
    Image.new("RGB", (4_000, 4_000)).save(data, "JPEG")
    data = data.getvalue()
    at = data.index(b"\xff\xc0")
    data = data[:at] + b"\xff\xc2" + data[at + 2:]
    image = Image.open(io.BytesIO(data))
    try:
        while True:
            kept.append(bytes(1 << 20))
    except MemoryError:
        # The pixels fit, and the coefficients do not.
        del kept[: 80]
    image.load()

def garbage_font():
    ImageFont.truetype(io.BytesIO(random.Random(3).randbytes(5_000)), 20)

def default_font():
    font = ImageFont.load_default(20)
    font.path.seek(0)
    return font.path.read()

def damaged_fonts():
    """Fonts in which bytes differ: an exception or some text."""
    whole, numbers, refused = default_font(), random.Random(5), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(numbers.choice((1, 4, 40, 400))):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        if numbers.random() < 0.2:
            del data[numbers.randrange(len(data)):]
        try:
            font = ImageFont.truetype(io.BytesIO(bytes(data)), 20)
            ImageDraw.Draw(Image.new("L", (300, 60))).text((0, 0), "Damaged ÄÖ fonts", font=font)
        except (OSError, ValueError, SyntaxError):
            refused += 1
    return refused > 10

def damaged(format, count, options):
    """Files in which bytes differ: an exception or some picture."""
    whole, numbers, refused, read = stored(format, **options), random.Random(7), 0, 0
    Image.MAX_IMAGE_PIXELS = 1_000_000
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(numbers.choice((1, 2, 8))):
            data[numbers.randrange(min(len(data), 800))] = numbers.randrange(256)
        if numbers.random() < 0.1:
            del data[numbers.randrange(len(data)):]
        try:
            load(bytes(data))
            read += 1
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError,
                OverflowError, struct.error, Image.DecompressionBombError):
            refused += 1
    return refused > 10 and read > 0

def fine():
    encode(1 << 20)
    return load(stored("JPEG")) + load(stored("PNG"))
"#;

#[tokio::test]
async fn damaged_pictures_and_fonts_are_errors_that_can_be_caught() {
    let sandbox = loaded(HOSTILE).await;
    let fine = json!([97, 61, 97, 61]);
    for (function, exception) in [
        ("no_quantization", "OSError"),
        ("bad_huffman_table", "OSError"),
        ("too_many_codes", "OSError"),
        ("bad_table_index", "OSError"),
        ("bad_sampling", "OSError"),
        ("fractional_sampling", "OSError"),
        ("two_headers", "OSError"),
        ("arithmetic", "OSError"),
        ("unknown_component", "OSError"),
        ("bad_progression", "OSError"),
        ("another_size", "OSError"),
        ("wider", "OSError"),
        ("too_long_for_a_segment", "OSError"),
        ("too_wide_for_jpeg", "OSError"),
        ("too_noisy_for_the_buffer", "OSError"),
        ("bad_checksum", "OSError"),
        ("long_text_chunk", "ValueError"),
        ("garbage_font", "OSError"),
    ] {
        let error = sandbox.run(function, args![]).await.unwrap_err();
        let Error::Guest(found) = &error else { panic!("{function}: {error:?}") };
        assert_eq!(found.name, exception, "{function}: {error}");
        assert_eq!(call(&sandbox, "fine").await, fine, "{function}");
    }
    for format in ["PNG", "GIF", "JPEG", "BMP"] {
        let error = sandbox.run("truncated", args![format]).await.unwrap_err();
        assert_eq!(error.exception().unwrap().name, "OSError", "{format}: {error}");
    }
    for (format, options) in [
        ("JPEG", json!({})),
        ("JPEG", json!({ "progressive": true })),
        ("JPEG", json!({ "optimize": true, "subsampling": 0 })),
        ("PNG", json!({})),
        ("GIF", json!({})),
        ("BMP", json!({})),
        ("TIFF", json!({})),
    ] {
        let ended = sandbox.run("damaged", args![format, 300, options]).await;
        let ended = ended.unwrap_or_else(|error| panic!("{format} {options}: {error}"));
        assert_eq!(ended, json!(true), "{format} {options}");
    }
    assert_eq!(call(&sandbox, "damaged_fonts").await, json!(true));
    assert_eq!(call(&sandbox, "fine").await, fine);
}

#[tokio::test]
async fn pictures_that_claim_to_be_large_are_refused() {
    for (function, format) in [
        ("large_claims", Some("PNG")),
        ("large_claims", Some("GIF")),
        ("large_claims", Some("JPEG")),
        ("bomb", None),
    ] {
        let sandbox = loaded(HOSTILE).await;
        let ended = match format {
            Some(format) => sandbox.run(function, args![format]).await,
            None => sandbox.run(function, args![]).await,
        };
        let error = ended.unwrap_err();
        let name = &error.exception().unwrap().name;
        assert_eq!(name, "DecompressionBombError", "{function} {format:?}: {error}");
        assert_eq!(call(&sandbox, "fine").await.as_array().map(Vec::len), Some(4));
    }
    for function in ["unlimited_claims", "bomb_that_fits_nowhere", "progressive_without_memory"] {
        let sandbox = loaded(HOSTILE).await;
        let error = sandbox.run(function, args![]).await.unwrap_err();
        let is_refused = error.exception().is_some_and(|exception| exception.name == "OSError");
        assert!(is_refused || error.limit() == Some(Limit::Memory), "{function}: {error:?}");
    }
}
