// Run the self-test of an exported model in JavaScript, without this package; see docs/export.md.
//
//     onnx-evidence export MODEL.onnx -o explained.onnx --json > explained.json
//     npm install onnxruntime-web
//     node check_export.mjs explained.onnx explained.json [onnxruntime-web|onnxruntime-node]
//
// With onnxruntime-web it is WebAssembly that computes, as in a browser. The model takes float32 or uint8.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [file, recordFile, name = "onnxruntime-web"] = process.argv.slice(2);
// From where it is run, and not from where this file lies.
const ort = createRequire(resolve("package.json"))(name);

const record = JSON.parse(readFileSync(recordFile, "utf-8"));
const test = record.self_test;
const executionProviders = [name === "onnxruntime-web" ? "wasm" : "cpu"];
const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders });

const [height, width] = test.size;
const channels = test.levels.length;
const block = (place, side) => Math.floor((place * test.blocks) / side);

function value(channel, row, col) {
  const share = test.levels[channel][block(row, height)][block(col, width)] / 255;
  return test.low[channel] + (test.high[channel] - test.low[channel]) * share;
}

const input = session.inputNames.find((each) => each !== record.input);
const { type } = session.inputMetadata.find((each) => each.name === input);
const pixels = new { float32: Float32Array, uint8: Uint8Array }[type](channels * height * width);
const last = test.layout === "NHWC";
for (let channel = 0; channel < channels; channel++)
  for (let row = 0; row < height; row++)
    for (let col = 0; col < width; col++) {
      const place = last ? (row * width + col) * channels + channel : (channel * height + row) * width + col;
      pixels[place] = type === "uint8" ? Math.round(value(channel, row, col)) : value(channel, row, col);
    }

const shape = last ? [1, height, width, channels] : [1, channels, height, width];
const feeds = { [input]: new ort.Tensor(type, pixels, shape) };
if (record.input !== null) feeds[record.input] = new ort.Tensor("int64", [BigInt(test.target)], [1]);
await session.run(feeds);
const start = performance.now();
const results = await session.run(feeds);
const spent = performance.now() - start;

let apart = 0;
for (const kind of Object.keys(record.outputs).filter((each) => each.startsWith("evidence"))) {
  const evidence = results[record.outputs[kind]];
  const [rows, cols] = evidence.dims.slice(2);
  test[kind].forEach((expected, target) => {
    const sums = expected.map((line) => line.map(() => 0));
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < cols; col++)
        sums[block(row, rows)][block(col, cols)] += evidence.data[(target * rows + row) * cols + col];
    sums.forEach((line, row) =>
      line.forEach((sum, col) => {
        apart = Math.max(apart, Math.abs(sum - expected[row][col]));
      }),
    );
  });
}
console.log(`${file}: evidence of a patch is within ${apart.toExponential(1)} bits, ${Math.round(spent)} ms, ${name}`);
process.exit(apart < 0.01 ? 0 : 1);
