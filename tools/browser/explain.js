// Explains pictures with a model of `onnx-evidence export --preprocess inside`, in ONNX Runtime's WebAssembly.
//
// All that a page of your own needs is here, and nothing of it knows of the page: open a model, decode a picture, run,
// sum and colour. What `evidence`, `budget` and the record are is said in docs/export.md.

import * as ort from "./ort.wasm.min.mjs";

const RECORD = "onnx_evidence.export";
const LABELS = "onnx_evidence.labels";
const SCHEMA = 1;
// Threads share memory, which browsers allow only to pages that are isolated from others (see serve.mjs).
const MOST_THREADS = 8;

/** An error in words for the person before the screen. */
export class Refusal extends Error {}

/** How many threads are used where nothing else is asked for. */
export const threads = (wanted = navigator.hardwareConcurrency) =>
  globalThis.crossOriginIsolated ? Math.max(1, Math.min(wanted, MOST_THREADS)) : 1;

// The model -----------------------------------------------------------------------------------------------------------

/** Everything about a model file that explaining takes: its session, what `export` recorded, and names of classes. */
export async function openModel(bytes, name, count = threads()) {
  let metadata;
  try {
    metadata = metadataOf(bytes);
  } catch {
    throw new Refusal(`${name} is not an ONNX model, or it is damaged.`);
  }
  if (!(RECORD in metadata))
    throw new Refusal(`${name} has no explanation in it. Export it with: onnx-evidence export --preprocess inside`);
  const record = JSON.parse(metadata[RECORD]);
  if (record.schema !== SCHEMA) throw new Refusal(`${name} was exported by another version. Export it again.`);
  if (!record.picture)
    throw new Refusal(`${name} does not take pictures, but what its preprocessing makes of them. ` +
      "Export it again with --preprocess inside.");
  ort.env.wasm.numThreads = count;
  // In a worker, so that the page stays alive while it computes.
  ort.env.wasm.proxy = true;
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Refusal(`${name} cannot be opened: ${error.message}`);
  }
  return { name, session, record, labels: JSON.parse(metadata[LABELS] ?? "null"), threads: count };
}

/** The `metadata_props` of an ONNX file: onnxruntime-web does not give them, and they are easily read. */
export function metadataOf(bytes) {
  const text = new TextDecoder("utf-8", { fatal: true });
  const found = {};
  // ModelProto: field 14 has an entry, whose fields 1 and 2 are key and value. All others are skipped, weights too.
  for (const [field, entry] of fieldsOf(bytes))
    if (field === 14) {
      const parts = Object.fromEntries(fieldsOf(entry));
      found[text.decode(parts[1])] = text.decode(parts[2]);
    }
  return found;
}

/** Numbers and contents of a protobuf message's fields; contents only of those that have a length. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new RangeError("the message ends early");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [field, kind] = [Math.floor(key / 8), key % 8];
    if (field === 0 || ![0, 1, 2, 5].includes(kind)) throw new RangeError("no protobuf message");
    if (kind === 0) {
      varint();
      continue;
    }
    const size = kind === 2 ? varint() : kind === 1 ? 8 : 4;
    if (at + size > bytes.length) throw new RangeError("the message ends early");
    if (kind === 2) yield [field, bytes.subarray(at, at + size)];
    at += size;
  }
}

// The picture ---------------------------------------------------------------------------------------------------------

/** A picture file as the package reads it: upright, its colours as they are in the file, transparency left out. */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new Refusal(`${file.name} is not a picture that this browser can read.`);
  }
  const { width, height } = bitmap;
  try {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    let { data } = context.getImageData(0, 0, width, height);
    // A canvas forgets the colour of what is transparent.
    if (data.some((value, index) => index % 4 === 3 && value < 255)) data = unmixed(bitmap) ?? data;
    const pixels = new Uint8Array(width * height * 3);
    for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
      pixels[to] = data[from];
      pixels[to + 1] = data[from + 1];
      pixels[to + 2] = data[from + 2];
    }
    return { name: file.name, width, height, pixels };
  } finally {
    bitmap.close();
  }
}

/** RGBA of a bitmap that was never multiplied by its transparency: only WebGL hands it out; null where it cannot. */
function unmixed(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  return data;
}

// The answer ----------------------------------------------------------------------------------------------------------

/**
 * Why the model says what it says of a picture: an answer for each of the file's targets, and the time of the run in ms.
 *
 * Files of `--target input` take a class with the picture: `asked`, or the model's own answer, which takes a second run.
 */
export async function explain(model, picture, asked = null) {
  const { record } = model;
  const wanted = record.input === null ? 0 : (asked ?? 0);
  let found = await run(model, picture, wanted);
  const winner = largest(found.scores);
  let { ms } = found;
  if (record.input !== null && asked === null && winner !== 0) {
    found = await run(model, picture, winner);
    ms += found.ms;
  }
  const chosen = (target) => (target === "winner" ? winner : target === "input" ? (asked ?? winner) : target);
  const size = found.evidence.length / record.targets.length;
  const answers = record.targets.map((target, index) => answerOf(model, found, {
    target: chosen(target),
    evidence: found.evidence.subarray(index * size, (index + 1) * size),
    budget: found.budget.subarray(index * 5, (index + 1) * 5),
  }));
  return { answers, winner: { number: winner, label: nameOf(model, winner) }, ms, raw: found };
}

async function run({ session, record }, { pixels, width, height }, target) {
  // A copy: what is given goes over to the worker, and is gone here.
  const feeds = { [record.picture.input]: new ort.Tensor("uint8", pixels.slice(), [1, height, width, 3]) };
  if (record.input !== null) feeds[record.input] = new ort.Tensor("int64", [BigInt(target)], [1]);
  const start = performance.now();
  let results;
  try {
    results = await session.run(feeds);
  } catch (error) {
    throw new Refusal(`The model cannot be run on this picture: ${error.message ?? error}`);
  }
  const ms = performance.now() - start;
  // The model's own come first.
  const scores = record.scores.name;
  return {
    ms,
    scores: results[scores].data,
    evidence: results[record.picture.evidence].data,
    budget: results[record.outputs.budget].data,
    inside: results[record.outputs.evidence].data,
  };
}

const nameOf = ({ labels }, number) => labels?.[number] || `class ${number}`;

function answerOf(model, { scores }, { target, evidence, budget }) {
  const { record } = model;
  const versus = record.versus === "runner-up" ? largest(scores, target) : record.versus;
  const [bits, without, supporting, opposing, unaccounted] = budget;
  // With bits of one class the first number is its log2 odds; rather than another they are odds of these two.
  const odds = versus === null && record.settings.score === "log-odds";
  return {
    target,
    title: nameOf(model, target) + (versus === null ? "" : ` rather than ${nameOf(model, versus)}`),
    probability: odds ? 1 / (1 + 2 ** -bits) : null,
    evidence,
    budget: { bits, without, supporting, opposing, unaccounted },
  };
}

/** The number of the largest score, that of `besides` left out. */
function largest(scores, besides = -1) {
  let best = besides === 0 ? 1 : 0;
  for (let index = 0; index < scores.length; index++)
    if (index !== besides && scores[index] > scores[best]) best = index;
  return best;
}

// Where the model looked ----------------------------------------------------------------------------------------------

/**
 * What the model saw, in pixels of the picture, and how many of these a pixel of its input has; as the file's own
 * preprocessing, which is recorded, lays it. Only for the dotted frame, and to say bits per patch of the input.
 */
export function seenBy(preprocess, height, width) {
  const { size, resize, rounding, anchor, resize_to: to } = preprocess;
  const original = [height, width];
  const target = Array.isArray(to) ? to : [to ?? Math.max(...size), to ?? Math.max(...size)];
  const nearest = (factor) => original.map((side) => Math.max(halfToEven(side * factor), 1));
  let resized = original;
  if (resize === "stretch") resized = to === null ? size : target;
  else if (resize === "long") {
    const fit = to === null ? size : target;
    const ratio = Math.max(height / fit[0], width / fit[1]);
    resized = original.map((side) => Math.max(halfToEven(side / ratio), 1));
  } else if (resize === "short" && rounding === "nearest") resized = nearest(target[0] / Math.min(height, width));
  else if (resize === "short") {
    const longer = Math.floor((target[0] * Math.max(height, width)) / Math.min(height, width));
    resized = height <= width ? [target[0], longer] : [longer, target[0]];
  }
  const corner = resized.map((side, axis) => {
    const spare = side - size[axis];
    if (anchor === "top-left") return 0;
    if (rounding === "huggingface") return Math.floor(spare / 2);
    return rounding === "torchvision" && spare < 0 ? Math.trunc(spare / 2) : halfToEven(spare / 2);
  });
  const pixel = original.map((side, axis) => side / resized[axis]);
  return {
    size,
    pixel,
    top: corner[0] * pixel[0],
    left: corner[1] * pixel[1],
    height: size[0] * pixel[0],
    width: size[1] * pixel[1],
  };
}

function halfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

// Sums and colours ----------------------------------------------------------------------------------------------------

/** Bits in any rectangle of the picture, in a constant time: `evidence` is bits per pixel, and adds up. */
export function summed(evidence, height, width, step = 1) {
  const [rows, cols] = [Math.ceil(height / step), Math.ceil(width / step)];
  // At (row, col): all bits above and to the left of it. Kept at every `step` pixels; even between them.
  const before = new Float64Array((rows + 1) * (cols + 1));
  const columns = new Float64Array(cols);
  for (let row = 0; row < height; row++) {
    for (let col = 0, index = row * width; col < width; col++, index++)
      columns[Math.floor(col / step)] += evidence[index];
    if ((row + 1) % step && row + 1 < height) continue;
    const line = Math.ceil((row + 1) / step) * (cols + 1);
    for (let col = 0, sum = 0; col < cols; col++) before[line + col + 1] = sum += columns[col];
  }
  const at = (y, x) => {
    const [row, col] = [Math.min(Math.floor(y), rows - 1), Math.min(Math.floor(x), cols - 1)];
    const [down, right] = [y - row, x - col];
    const place = row * (cols + 1) + col;
    const upper = before[place] * (1 - right) + before[place + 1] * right;
    const lower = before[place + cols + 1] * (1 - right) + before[place + cols + 2] * right;
    return upper * (1 - down) + lower * down;
  };
  // In steps from 0 on; the last may be a short one.
  const stepped = (value, side, count) => {
    const [place, last] = [Math.min(Math.max(value, 0), side), (count - 1) * step];
    return place < last ? place / step : count - 1 + (place - last) / (side - last);
  };
  return (top, left, bottom, right) => {
    const [y0, y1] = [stepped(top, height, rows), stepped(bottom, height, rows)];
    const [x0, x1] = [stepped(left, width, cols), stepped(right, width, cols)];
    return at(y1, x1) - at(y0, x1) - at(y1, x0) + at(y0, x0);
  };
}

/** Rows and columns of the input that a number shown to people stands for: a fourteenth of its sides, as in figures. */
export const patchOf = (size) => size.map((side) => Math.max(1, Math.round(side / 14)));

/** The patches with the most evidence for and against: bits, where they lie, and the pixel in their middle. */
export function strongest(sum, seen) {
  const [rows, cols] = patchOf(seen.size);
  const [down, right] = seen.pixel;
  const best = { most: { bits: -Infinity }, least: { bits: Infinity } };
  for (let row = 0; row + rows <= seen.size[0]; row++)
    for (let col = 0; col + cols <= seen.size[1]; col++) {
      const [top, left] = [seen.top + row * down, seen.left + col * right];
      const middle = [row + Math.floor(rows / 2) + 0.5, col + Math.floor(cols / 2) + 0.5];
      const pixel = [Math.floor(seen.top + middle[0] * down), Math.floor(seen.left + middle[1] * right)];
      const place = { top, left, height: rows * down, width: cols * right, pixel };
      const bits = sum(top, left, top + place.height, left + place.width);
      if (bits > best.most.bits) best.most = { bits, ...place };
      if (bits < best.least.bits) best.least = { bits, ...place };
    }
  return best;
}

/**
 * What figures of the package show: bits per patch, averaged over a quarter of its sides, at every pixel that is drawn;
 * and the largest magnitude of it, at which colours end.
 */
export function smoothed(sum, seen, height, width, step) {
  const [rows, cols] = [Math.ceil(height / step), Math.ceil(width / step)];
  const patch = patchOf(seen.size);
  const half = patch.map((side, axis) => (Math.max(1, Math.floor(side / 4)) / 2) * seen.pixel[axis]);
  const area = patch[0] * seen.pixel[0] * patch[1] * seen.pixel[1];
  // No further than what the model saw: beyond it there is nothing to average, and nothing to show.
  const ends = (middle, reach, from, size) =>
    middle < from || middle > from + size
      ? null
      : [Math.max(middle - reach, from), Math.min(middle + reach, from + size)];
  const values = new Float32Array(rows * cols);
  let limit = 0;
  for (let row = 0, index = 0; row < rows; row++) {
    const down = ends((row + 0.5) * step, half[0], seen.top, seen.height);
    for (let col = 0; col < cols; col++, index++) {
      const across = ends((col + 0.5) * step, half[1], seen.left, seen.width);
      if (down === null || across === null) continue;
      const [top, bottom, left, right] = [...down, ...across];
      values[index] = (sum(top, left, bottom, right) / ((bottom - top) * (right - left))) * area;
      limit = Math.max(limit, Math.abs(values[index]));
    }
  }
  return { rows, cols, values, limit: limit || 1 };
}

/** Blue, white, red: colours of maps and of the bar beside them. */
export const COLORS = ["#08306b", "#2166ac", "#92c5de", "#ffffff", "#f4a582", "#b2182b", "#67000d"];

// With an odd number of entries the middle one is pure white, so that 0 is exactly white.
const TABLE = Array.from({ length: 257 }, (_, entry) => {
  const place = (entry / 256) * (COLORS.length - 1);
  const from = Math.min(Math.floor(place), COLORS.length - 2);
  const channels = (color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  const [low, high] = [channels(COLORS[from]), channels(COLORS[from + 1])];
  return low.map((value, index) => Math.floor(value + (high[index] - value) * (place - from) + 1e-9));
});

/** The colour of bits: 0 is exactly white, `limit` full red and -limit full blue. */
export function colorOf(bits, limit) {
  const share = (bits / limit + 1) / 2;
  return TABLE[Math.min(Math.max(Math.floor(share * 257), 0), 256)];
}

/** The grey picture under the map: the stronger the evidence, the more colour. */
export function overlaid(color, bits, limit) {
  const grey = 60 + 0.75 * (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]);
  const strength = Math.min((2 * Math.abs(bits)) / limit, 1) ** 0.8 * 0.75;
  const over = colorOf(Math.sign(bits) * 0.66 * limit, limit);
  return over.map((value) => Math.round((1 - strength) * grey + strength * value));
}
