// Run the self-test of an exported model in ONNX Runtime's WebAssembly, as a browser does; see docs/export.md.
//
//     onnx-evidence export MODEL.onnx -o explained.onnx --json > explained.json
//     npm install onnxruntime-web
//     node check_export.mjs explained.onnx explained.json
//
// The model is to have channels first and float32 pictures.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

// From where it is run, and not from where this file lies.
const ort = createRequire(resolve("package.json"))("onnxruntime-web");

const [file, recordFile] = process.argv.slice(2);
const record = JSON.parse(readFileSync(recordFile, "utf-8"));
const test = record.self_test;
const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });

const channels = test.levels.length;
const name = session.inputNames.find((each) => each !== record.input);
const [height, width] = test.size;
const block = (place, side) => Math.floor((place * test.blocks) / side);

const pixels = new Float32Array(channels * height * width);
for (let channel = 0, index = 0; channel < channels; channel++)
  for (let row = 0; row < height; row++)
    for (let col = 0; col < width; col++, index++) {
      const share = test.levels[channel][block(row, height)][block(col, width)] / 255;
      pixels[index] = test.low[channel] + (test.high[channel] - test.low[channel]) * share;
    }

const feeds = { [name]: new ort.Tensor("float32", pixels, [1, channels, height, width]) };
if (record.input !== null) feeds[record.input] = new ort.Tensor("int64", [BigInt(test.target)], [1]);
await session.run(feeds);
const start = performance.now();
const results = await session.run(feeds);
const spent = performance.now() - start;

const evidence = results[record.outputs.evidence].data;
let apart = 0;
test.evidence.forEach((expected, target) => {
  const sums = expected.map((line) => line.map(() => 0));
  for (let row = 0; row < height; row++)
    for (let col = 0; col < width; col++)
      sums[block(row, height)][block(col, width)] += evidence[(target * height + row) * width + col];
  sums.forEach((line, row) =>
    line.forEach((sum, col) => {
      apart = Math.max(apart, Math.abs(sum - expected[row][col]));
    }),
  );
});
console.log(`${file}: evidence of a patch is within ${apart.toExponential(1)} bits, ${Math.round(spent)} ms`);
process.exit(apart < 0.01 ? 0 : 1);
