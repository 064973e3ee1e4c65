// The page around explain.js: what is dropped or chosen is taken in, and answers are drawn and said.

import * as explaining from "./explain.js";

const MODEL = "model-explained.onnx";
// Pixels of the picture that are drawn, at most, along its longer side; the map itself has them all.
const LONGEST = 1000;

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
// What the page holds; tools/browser/drive.mjs reads it.
export const held = { model: null, picture: null, result: null, shown: null };

// One thing after the other: a picture that is dropped while another is computed comes next.
let work = Promise.resolve();
function doing(words, task) {
  work = work.then(async () => {
    part.trouble.hidden = true;
    part.trouble.textContent = "";
    part.main.setAttribute("aria-busy", "true");
    part.status.textContent = words;
    // Let these words be painted before what may take long.
    await new Promise((resolve) => setTimeout(resolve));
    try {
      part.status.textContent = (await task()) ?? "";
    } catch (error) {
      part.status.textContent = "";
      part.trouble.textContent =
        error instanceof explaining.Refusal ? error.message : `Something went wrong: ${error.message ?? error}`;
      part.trouble.hidden = false;
      if (!(error instanceof explaining.Refusal)) console.error(error);
    }
    part.main.setAttribute("aria-busy", "false");
  });
  return work;
}

// The model -----------------------------------------------------------------------------------------------------------

const asked = new URLSearchParams(location.search).get("threads");

async function useModel(bytes, name) {
  const size = `${(bytes.length / 1e6).toFixed(1)} MB`;
  held.model = await explaining.openModel(bytes, name, explaining.threads(asked === null ? undefined : Number(asked)));
  const { record, labels } = held.model;
  part.model.textContent = `${name} (${size})`;
  part.asking.hidden = record.input === null;
  part.names.replaceChildren(...(labels ?? []).map((label) => new Option(label)));
  part.asked.value = "";
  part.picking.hidden = record.targets.length === 1;
  part.target.replaceChildren(...record.target_labels.map((label, index) => new Option(label, index)));
  held.result = null;
  return held.picture ? answer() : "Ready. Drop a picture.";
}

async function modelBesideThePage() {
  const response = await fetch(MODEL);
  if (!response.ok) {
    part.other.open = true;
    return "Choose a model that onnx-evidence exported.";
  }
  return useModel(new Uint8Array(await response.arrayBuffer()), MODEL);
}

// Pictures ------------------------------------------------------------------------------------------------------------

function take(files) {
  for (const file of files)
    if (/\.onnx$/i.test(file.name))
      doing(`Opening ${file.name} …`, async () => useModel(new Uint8Array(await file.arrayBuffer()), file.name));
    else
      doing(`Explaining ${file.name} …`, async () => {
        if (!held.model) throw new explaining.Refusal("Choose a model first.");
        held.picture = await explaining.decode(file);
        return answer();
      });
}

async function answer() {
  const { model, picture } = held;
  const asked = askedClass();
  try {
    held.result = await explaining.explain(model, picture, asked);
  } catch (error) {
    // What is on the screen is of this model and this picture, or not there.
    part.result.hidden = true;
    throw error;
  }
  show(Number(part.target.value) || 0);
  const { threads } = model;
  return `${picture.name}: computed in ${seconds(held.result.ms)} on this device, ` +
    `${threads} thread${threads > 1 ? "s" : ""}. Nothing was sent anywhere.`;
}

/** The number of the class that a person wrote, by name or number; null for the model's own answer. */
function askedClass() {
  const text = part.asked.value.trim().toLowerCase();
  if (part.asking.hidden || text === "") return null;
  const { labels } = held.model;
  const named = labels?.findIndex((label) => label.toLowerCase() === text) ?? -1;
  if (named >= 0) return named;
  if (/^\d+$/.test(text) && Number(text) < (held.result?.raw.scores.length ?? Infinity)) return Number(text);
  throw new explaining.Refusal(`The model has no class "${part.asked.value}".`);
}

// What is shown -------------------------------------------------------------------------------------------------------

function show(index) {
  const { picture, model, result } = held;
  const { height, width } = picture;
  const found = result.answers[index];
  const step = Math.ceil(Math.max(height, width) / LONGEST);
  const sum = explaining.summed(found.evidence, height, width, step);
  const seen = explaining.seenBy(model.record.settings.preprocess, height, width);
  const map = explaining.smoothed(sum, seen, height, width, step);
  held.shown = { found, sum, seen, map, step, strongest: explaining.strongest(sum, seen) };
  part.result.hidden = false;
  draw();
  say();
}

function draw() {
  const { picture, shown } = held;
  const { rows, cols, values, limit } = shown.map;
  const way = new FormData(part.ways).get("way");
  const image = new ImageData(cols, rows);
  for (let row = 0, index = 0; row < rows; row++)
    for (let col = 0; col < cols; col++, index++) {
      const from = 3 * (row * shown.step * picture.width + col * shown.step);
      const pixel = picture.pixels.subarray(from, from + 3);
      const bits = values[index];
      const color =
        way === "picture" ? pixel
        : way === "evidence" ? explaining.colorOf(bits, limit)
        : explaining.overlaid(pixel, bits, limit);
      image.data.set(color, 4 * index);
      image.data[4 * index + 3] = 255;
    }
  part.canvas.width = cols;
  part.canvas.height = rows;
  part.canvas.getContext("2d").putImageData(image, 0, 0);
  place(part.seen, shown.seen);
  const { most, least } = shown.strongest;
  place(part.most, most, way !== "picture" && most.bits > 0);
  place(part.least, least, way !== "picture" && least.bits < 0);
}

/** Lay a frame over the picture, of whatever size it is on the screen. */
function place(frame, { top, left, height, width }, visible = true) {
  const share = (value, side) => `${(100 * value) / side}%`;
  Object.assign(frame.style, {
    top: share(top, held.picture.height),
    left: share(left, held.picture.width),
    height: share(height, held.picture.height),
    width: share(width, held.picture.width),
  });
  frame.hidden = !visible;
}

function say() {
  const { picture, shown } = held;
  const { found, map, seen, strongest } = shown;
  const { bits, without, supporting, opposing, unaccounted } = found.budget;
  const [rows, cols] = explaining.patchOf(seen.size);
  const { winner } = held.result;
  part.said.textContent = found.target === winner.number ? `${picture.name}: the model says`
    : `${picture.name}: the model says ${winner.label}. Asked for is`;
  part.title.textContent = found.title;
  part.probability.textContent = found.probability === null ? "" : `probability ${precise(found.probability)}`;
  const numbers = { with: signed(bits), without: signed(without), for: signed(supporting), against: signed(opposing),
    unaccounted: unaccounted.toFixed(2) };
  for (const [name, text] of Object.entries(numbers)) part[name].textContent = `${text} bits`;
  const difference = Math.abs(bits - without);
  const share = unaccounted / Math.max(difference, 1);
  part.share.textContent = `${(100 * share).toFixed(0)} % of ${difference < 1 ? "one bit" : "the difference"}. ` +
    (share > 0.05 ? "A file that is exported with more steps leaves less." : "");
  const at = ({ bits, pixel }) => `${signed(bits, 2)} bits at row ${pixel[0]}, column ${pixel[1]}`;
  part.strongestFor.textContent = strongest.most.bits > 0 ? at(strongest.most) : "nothing";
  part.strongestAgainst.textContent = strongest.least.bits < 0 ? at(strongest.least) : "nothing";
  part.bar.style.background = `linear-gradient(to right, ${explaining.COLORS.join(", ")})`;
  [-1, -0.5, 0, 0.5, 1].forEach((end, index) => {
    part.ticks.children[index].textContent = end ? signed(end * map.limit, 2) : "0";
  });
  part.unit.textContent = `bits per ${rows} × ${cols} pixels of the model's input`;
  part.canvas.setAttribute("aria-label",
    `${picture.name}: evidence for ${found.title}. Strongest for: ${part.strongestFor.textContent}. ` +
    `Strongest against: ${part.strongestAgainst.textContent}. With the arrow keys, read the bits of any patch.`);
  part.reading.textContent = "Point at the picture to read the bits there.";
  part.probe.hidden = true;
}

const minus = (text) => text.replace("-", "−");
const signed = (value, digits = 1) => minus(`${value < 0 ? "" : "+"}${value.toFixed(digits)}`);
const precise = (share) => (share < 0.001 ? share.toExponential(1) : String(Number(share.toPrecision(3))));
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

// Reading bits off the map, by pointer or keys ------------------------------------------------------------------------

let pointed = [0.5, 0.5];

function read(y, x) {
  pointed = [y, x].map((share) => Math.min(Math.max(share, 0), 1));
  const { seen, sum } = held.shown;
  const [height, width] = explaining.patchOf(seen.size).map((side, axis) => side * seen.pixel[axis]);
  const [top, left] = [pointed[0] * held.picture.height - height / 2, pointed[1] * held.picture.width - width / 2];
  place(part.probe, { top, left, height, width });
  part.reading.textContent = `${signed(sum(top, left, top + height, left + width), 3)} bits in this patch.`;
}

part.canvas.addEventListener("pointermove", (event) => {
  const box = part.canvas.getBoundingClientRect();
  read((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
});
part.canvas.addEventListener("pointerleave", () => { part.probe.hidden = true; });
part.canvas.addEventListener("focus", () => read(...pointed));
part.canvas.addEventListener("blur", () => { part.probe.hidden = true; });
part.canvas.addEventListener("keydown", (event) => {
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  read(pointed[0] + way[0] / 40, pointed[1] + way[1] / 40);
});

// What people do ------------------------------------------------------------------------------------------------------

// The whole page takes what is dropped: a browser would open a picture that misses a smaller goal.
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
for (const input of [part.chosen, part.chosenModel])
  input.addEventListener("change", () => {
    take(input.files);
    // The same file may be chosen once more.
    input.value = "";
  });
part.ways.addEventListener("change", draw);
part.target.addEventListener("change", () => held.result && show(Number(part.target.value)));
part.asked.addEventListener("change", () => held.picture && doing("Explaining …", answer));

doing("Loading the model …", modelBesideThePage);
