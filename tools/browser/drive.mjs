// Drives the page in a real browser, without a window: is what it shows what Python computes, and does nothing leave it?
//
//     npm ci --prefix tools/browser
//     python tools/browser/expect.py FOLDER/model-explained.onnx photo.jpg -o expected
//     node tools/browser/drive.mjs FOLDER expected photo.jpg [--screenshot page.png] [--browser PATH]
//
// FOLDER is put together as docs/serving.md says. The browser is Chromium, of the system where no other is named.

import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const KNOWN = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
// Bits: of a patch, a fourteenth of the input's sides, of a pixel, and of the budget.
const CLOSE = 1e-3;
const PATIENCE = 300_000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    screenshot: { type: "string" },
    browser: { type: "string", default: KNOWN.find(existsSync) },
    repeats: { type: "string", default: "9" },
  },
});
if (positionals.length !== 3) {
  console.error("usage: drive.mjs FOLDER EXPECTED PICTURE [--screenshot FILE] [--browser PATH] [--repeats N]");
  process.exit(2);
}
const [folder, expectedFolder, photo] = positionals.map((each) => resolve(each));
const expected = JSON.parse(readFileSync(join(expectedFolder, "expected.json"), "utf-8"));
const failures = [];
const check = (holds, words) => {
  console.log(`${holds ? "ok  " : "FAIL"} ${words}`);
  if (!holds) failures.push(words);
};

const browser = await chromium.launch({ executablePath: options.browser });
console.log(`Chromium ${browser.version()}; ${expected.runtime} in Python`);
const rows = Object.entries(expected.ms).map(([count, { median, least }]) =>
  `| Python, ${expected.runtime}, ${count} | ${median.toFixed(0)} ms | ${least.toFixed(0)} ms | |`);
try {
  for (const isolated of [false, true]) await drive(isolated);
} finally {
  await browser.close();
}
console.log(["", "| | run, median | least | first run |", "|---|---|---|---|", ...rows].join("\n"));
process.exit(failures.length ? 1 : 0);

/** Everything in a fresh page; one that is isolated from others may use threads. */
async function drive(isolated) {
  const asked = [];
  const { server, address } = await serve(folder, { isolated, asked: (url) => asked.push(url) });
  const context = await browser.newContext({ viewport: { width: 1200, height: 560 }, colorScheme: "light" });
  try {
    const page = await context.newPage();
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(String(error)));
    context.on("request", (request) => asked.push(request.url()));
    await page.goto(address);
    await idle(page);
    const loaded = [...asked];
    asked.length = 0;
    await context.setOffline(true);

    await drop(page, photo);
    await idle(page);
    const trouble = await page.textContent("#trouble");
    check(trouble === "" && wrong.length === 0, `a dropped picture is explained ${[trouble, ...wrong].join(" ")}`);
    const shown = await result(page);
    const first = shown.ms;
    const times = [];
    for (let count = 0; count < Number(options.repeats); count++) {
      // As with the keyboard.
      await page.setInputFiles("#chosen", photo);
      await idle(page);
      times.push((await result(page, false)).ms);
    }
    compare(shown);
    const outside = loaded.filter((url) => /^\w+:\/\//.test(url) && !url.startsWith(address));
    check(outside.length === 0, `loading the page asks nobody but its own server ${outside.join(" ")}`);
    check(asked.length === 0, `after that it asks for nothing, and works offline ${asked.join(" ")}`);
    const median = times.sort((one, other) => one - other)[times.length >> 1];
    const threads = `${shown.threads} thread${shown.threads > 1 ? "s" : ""}`;
    rows.push(`| browser, ${threads} | ${median.toFixed(0)} ms | ${times[0].toFixed(0)} ms | ${first.toFixed(0)} ms |`);
    if (isolated && options.screenshot) await page.screenshot({ path: options.screenshot, fullPage: true });
  } finally {
    await context.close();
    server.close();
  }
}

/** Until nothing is loaded or computed. */
async function idle(page) {
  // What was asked for just now has begun after a turn of the page's own loop.
  await page.evaluate(() => new Promise((done) => setTimeout(done, 20)));
  await page.waitForSelector('main[aria-busy="false"]', { timeout: PATIENCE });
}

/** Drop a file as the browser itself does when one is dragged in from a folder. */
async function drop(page, path) {
  const devtools = await page.context().newCDPSession(page);
  const data = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"])
    await devtools.send("Input.dispatchDragEvent", { type, x: 600, y: 400, data });
  await devtools.detach();
}

/** What the page holds; with arrays as they lie in memory. */
async function result(page, arrays = true) {
  const found = await page.evaluate(async (arrays) => {
    const { held } = await import("./page.js");
    const { raw, ms, winner } = held.result;
    const text = (values) => {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      let binary = "";
      for (let at = 0; at < bytes.length; at += 32768) binary += String.fromCharCode(...bytes.subarray(at, at + 32768));
      return btoa(binary);
    };
    const { picture } = held;
    const kept = { pixels: picture.pixels, evidence: raw.inside, evidence_in_picture: raw.evidence };
    return {
      ms, winner: winner.number, threads: held.model.threads, budget: [...raw.budget], size: [picture.height, picture.width],
      said: document.querySelector("#title").textContent,
      arrays: arrays && Object.fromEntries(Object.entries(kept).map(([name, values]) => [name, text(values)])),
    };
  }, arrays);
  if (arrays)
    for (const [name, text] of Object.entries(found.arrays)) found.arrays[name] = new Uint8Array(Buffer.from(text, "base64"));
  return found;
}

function compare({ arrays, winner, budget, size, said }) {
  const { shapes } = expected;
  check(winner === expected.winner, `the class is that of Python: ${winner}, ${said}`);
  const pixels = new Uint8Array(readFileSync(join(expectedFolder, "pixels.u8")));
  check(String(size) === String(shapes.pixels.slice(0, 2)), `the picture has ${size[1]} x ${size[0]} pixels`);
  const levels = apart(arrays.pixels, pixels);
  const differing = pixels.reduce((count, value, index) => count + (value !== arrays.pixels[index]), 0);
  console.log(`     decoded: ${differing} of ${pixels.length} samples differ from Pillow's, by ${levels} levels at most`);
  const own = expected.budget.flat();
  check(apart(budget, own) < CLOSE, `budgets are within ${apart(budget, own).toExponential(1)} bits`);
  for (const name of ["evidence", "evidence_in_picture"]) {
    const [there, here] = [floats(readFileSync(join(expectedFolder, `${name}.f32`))), floats(arrays[name])];
    const [, targets, height, width] = shapes[name];
    check(here.length === there.length, `${name} has ${targets} x ${height} x ${width} pixels`);
    const [pixel, patch] = [apart(here, there), apart(pooled(here, shapes[name]), pooled(there, shapes[name]))];
    check(pixel < CLOSE && patch < CLOSE,
      `${name} is within ${pixel.toExponential(1)} bits a pixel, ${patch.toExponential(1)} a patch`);
  }
}

function floats(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

/** The largest difference; not a number where lengths differ or a value is none. */
function apart(some, others) {
  if (some.length !== others.length) return NaN;
  return some.reduce((most, value, index) => {
    const found = Math.abs(value - others[index]);
    return found > most || Number.isNaN(found) ? found : most;
  }, 0);
}

/** Sums over 14 x 14 patches of every target. */
function pooled(values, [, targets, height, width]) {
  const sums = new Float64Array(targets * 196);
  const block = (place, side) => Math.floor((place * 14) / side);
  for (let target = 0, index = 0; target < targets; target++)
    for (let row = 0; row < height; row++)
      for (let col = 0; col < width; col++, index++)
        sums[target * 196 + block(row, height) * 14 + block(col, width)] += values[index];
  return sums;
}
