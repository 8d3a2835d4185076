"use strict";
// Decodes photos and runs photo.onnx, away from the page. The runtime's own script stands before this one, as `ort`.
const MOST_PIXELS = 100e6, MOST_BYTES = 8 * MOST_PIXELS, THUMBNAIL = 128;  // the limits of predictions in Python
const NEEDS = "save it as JPEG or PNG first";
const SIGNATURES = [
  [/^\xff\xd8\xff/, "JPEG"], [/^\x89PNG\r\n\x1a\n/, "PNG"], [/^GIF8[79]a/, "GIF"], [/^RIFF....WEBP/s, "WebP"], [/^BM/, "BMP"],
  [/^....ftypavi[fs]/s, "AVIF"], [/^....ftyp(hei|hev|mif1|msf1)/s, "HEIC"],
  [/^(II[*+]\0|MM\0[*+])/, "TIFF"], [/^(\0\0\0\x0cjP  |\xff\x4f\xff\x51)/, "JPEG 2000"], [/^P[1-6]\s/, "PPM"],
];
class Refused extends Error {}
let session;

/** Bytes of a part: an ArrayBuffer, or base64 of gzip in the page that is one file. */
async function unpacked(part) {
  if (typeof part !== "string") return new Uint8Array(part);
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(part);
  else {
    const text = atob(part);
    bytes = new Uint8Array(text.length);
    for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load({wasm, model}) {
  Object.assign(ort.env.wasm, {numThreads: 1, proxy: false, wasmBinary: await unpacked(wasm)});
  ort.env.logLevel = "error";
  // Weights of 8 bits are turned into floats once, while loading.
  session = await ort.InferenceSession.create(await unpacked(model), {extra: {session: {disable_quant_qdq: "1"}}});
}

/** Width and height in a file's header, before anything is decoded; null if they are not found. */
function sizeOf(format, data) {
  const at = (offset, little) => data.getUint16(offset, little), long = (offset, little) => data.getUint32(offset, little);
  const text = offset => String.fromCharCode(...new Uint8Array(data.buffer, offset, 4));
  if (format === "PNG") return [long(16), long(20)];
  if (format === "GIF") return [at(6, true), at(8, true)];
  if (format === "BMP") return [Math.abs(data.getInt32(18, true)), Math.abs(data.getInt32(22, true))];
  if (format === "WebP") {
    const kind = text(12);
    if (kind === "VP8 ") return [at(26, true) & 0x3fff, at(28, true) & 0x3fff];
    if (kind === "VP8L") return [(long(21, true) & 0x3fff) + 1, (long(21, true) >> 14 & 0x3fff) + 1];
    return [(long(24, true) & 0xffffff) + 1, (long(26, true) >>> 8) + 1];
  }
  if (format === "JPEG") {
    for (let place = 2; place + 9 < data.byteLength; place += 2 + at(place + 2)) {
      while (data.getUint8(place) === 0xff && data.getUint8(place + 1) === 0xff) place++;
      const marker = data.getUint8(place + 1);
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [at(place + 7), at(place + 5)];
    }
  }
  if (format === "AVIF" || format === "HEIC") {  // the largest of its pictures
    let found = null;
    for (let place = 0; place + 16 < Math.min(data.byteLength, 65536); place++) {
      if (text(place) !== "ispe") continue;
      const size = [long(place + 8), long(place + 12)];
      if (!found || size[0] * size[1] > found[0] * found[1]) found = size;
    }
    return found;
  }
  return null;
}

function check(format, buffer) {
  let size = null;
  try { size = sizeOf(format, new DataView(buffer)); } catch { /* the header is cut: decoding it says so */ }
  if (size && size[0] * size[1] > MOST_PIXELS) {
    const [megapixels, most] = [size[0] * size[1], MOST_PIXELS].map(pixels => (pixels / 1e6).toFixed(0));
    throw new Refused(`it has ${size[0]} x ${size[1]} pixels: ${megapixels} megapixels, more than ${most}`);
  }
}

/** Decode a photo: upright, on white, without colour management, the first frame of an animation. */
async function decode(file) {
  if (file.size === 0) throw new Refused("the file is empty");
  if (file.size > MOST_BYTES) throw new Refused("the file is too large");
  const buffer = await file.arrayBuffer().catch(() => { throw new Refused("it cannot be read: choose it again"); });
  const start = String.fromCharCode(...new Uint8Array(buffer, 0, Math.min(32, buffer.byteLength)));
  const format = SIGNATURES.find(([pattern]) => pattern.test(start))?.[1];
  if (!format) throw new Refused("it is not a picture of a known format");
  check(format, buffer);
  const options = {colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image"};
  const bitmap = await createImageBitmap(new Blob([buffer], {type: file.type}), options).catch(() => {
    if (["JPEG", "PNG", "GIF", "WebP", "BMP"].includes(format)) throw new Refused("it is damaged, or too large for this browser");
    throw new Refused(`this browser cannot decode ${format} files: ${NEEDS}`);
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", {willReadFrequently: true});
  context.fillStyle = "#fff";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

function rgb(canvas) {
  const {width, height} = canvas, {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return new ort.Tensor("uint8", pixels, [height, width, 3]);
}

async function thumbnail(canvas) {
  const scale = Math.min(1, THUMBNAIL / Math.max(canvas.width, canvas.height));
  const small = new OffscreenCanvas(Math.max(1, canvas.width * scale), Math.max(1, canvas.height * scale));
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, small.width, small.height);
  return small.convertToBlob({type: "image/jpeg", quality: .8});
}

async function predict({file}) {
  const started = performance.now(), canvas = await decode(file);
  const {probabilities, unlike} = await session.run({photo: rgb(canvas)});
  const seconds = (performance.now() - started) / 1000;
  return {probabilities: [...probabilities.data], unlike: unlike ? unlike.data[0] : null, seconds, picture: await thumbnail(canvas)};
}

onmessage = async ({data}) => {
  try {
    postMessage(data.file ? await predict(data) : (await load(data), {ready: true}));
  } catch (error) {
    if (error instanceof Refused) postMessage({refused: error.message});
    else postMessage({failed: String(error?.message ?? error).split("\n")[0]});
  }
};
