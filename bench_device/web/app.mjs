/** The page: uses up the link, gives each job to a worker, and shows what comes back. */

import { deviceFacts, pageFacts, whyOneThread } from "./facts.mjs";
import { fromBase64, typedArray } from "./arrays.mjs";
import { Host, Refused } from "./host.mjs";
import { canvases, differences, joined } from "./pictures.mjs";
import { figure, megabytes, percentile } from "./statistics.mjs";

const BASE = new URL("./", location.href).href;
const NAMES = { wasm: "WebAssembly (CPU)", webgpu: "WebGPU" };
const SVG = "http://www.w3.org/2000/svg";

const state = (text) => (document.querySelector("#state").textContent = text);

function entries(list, pairs) {
  for (const [name, value] of pairs) {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    list.append(term, text);
  }
}

function showFacts(facts) {
  const one = whyOneThread(facts);
  const section = document.querySelector("#facts");
  entries(section.querySelector("dl"), [
    ["Browser", facts.userAgent],
    ["Cores", facts.cores === null ? "not told" : String(facts.cores)],
    ["WebAssembly", `${facts.simd ? "SIMD" : "no SIMD"}, ${one ? `one thread: ${one}` : "threads"}`],
    ["WebGPU", facts.gpu ? `${facts.gpu.name || "yes"}${facts.gpu.fallback ? " (software)" : ""}` : facts.whyNoGpu],
    ["Timer", `steps of ${facts.timerStepMs} ms`],
  ]);
  section.hidden = false;
}

/** One job's card. */
class Card {
  constructor(job) {
    this.root = document.querySelector("#job").content.cloneNode(true).firstElementChild;
    document.querySelector("#jobs").append(this.root);
    this.find("h2").textContent = job.name;
    this.find(".what").textContent = `${job.precision}, ${megabytes(job.bytes)}, ${NAMES[job.provider] ?? job.provider}`;
    this.ms = [];
    this.images = [];
    this.loads = {};
    this.step("waiting");
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  step(text) {
    this.find(".step").textContent = text;
  }

  share(value) {
    this.find("progress").value = value;
  }

  line(line) {
    if (line.kind === "load") this.loads[line.cold ? "cold" : "warm"] = line.ms;
    if (line.kind === "first") this.loads.first = line.ms;
    if (line.kind === "meta") this.meta = line;
    if (line.kind === "samples") {
      this.ms.push(...line.ms);
      this.figures();
    }
    if (line.kind === "first") this.more();
  }

  more() {
    const list = this.find("dl.more");
    list.replaceChildren();
    const { meta, loads } = this;
    entries(list, [
      ["Opening", `${figure(loads.cold)} ms cold, ${figure(loads.warm)} ms again`],
      ["First run", `${figure(loads.first)} ms`],
      ["Runtime", [meta.runtime, meta.runtime_version].filter(Boolean).join(" ")],
      ["Threads", meta.threads === null ? "not told" : String(meta.threads)],
    ]);
  }

  figures() {
    const { ms } = this;
    this.find(".figures").hidden = false;
    for (const [name, q] of [["p50", 50], ["p90", 90], ["p99", 99]]) {
      // Below 200 runs the 99th percentile is one or two of them.
      const known = name !== "p99" || ms.length >= 200;
      this.find(`[data-figure=${name}]`).textContent = known ? figure(percentile(ms, q)) : "n/a";
    }
    this.strip();
  }

  /** Every run as a dot, in its order, with a line at the median; the scale starts at 0. */
  strip() {
    const { ms } = this;
    const top = Math.max(percentile(ms, 99) * 1.15, percentile(ms, 50) * 1.6);
    const svg = this.find("svg");
    const y = (value) => 62 - 60 * Math.min(value / top, 1);
    svg.replaceChildren();
    const add = (name, attributes) => {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      svg.append(element);
    };
    add("line", { class: "axis", x1: 0, x2: 600, y1: 62, y2: 62 });
    const every = Math.max(1, Math.floor(ms.length / 1500));
    const wide = svg.getBoundingClientRect().width || 600;
    for (let i = 0; i < ms.length; i += every) {
      const at = { cx: 4 + (592 * (i + 0.5)) / ms.length, cy: y(ms[i]) };
      add("ellipse", { ...at, rx: (2.5 * 600) / wide, ry: 2.5 });
    }
    add("line", { x1: 0, x2: 600, y1: y(percentile(ms, 50)), y2: y(percentile(ms, 50)) });
    this.find(".strip").hidden = false;
    this.find(".strip figcaption").textContent = `${ms.length} runs in order, from 0 to ${figure(top)} ms; line: median`;
  }

  picture(image) {
    this.images.push(image);
    this.rows([["This browser", canvases(joined(this.images))]]);
  }

  rows(rows) {
    this.find(".pictures").hidden = false;
    this.find(".rows").replaceChildren(
      ...rows.map(([name, pictures]) => {
        const row = document.createElement("div");
        row.className = "row";
        const label = document.createElement("span");
        label.textContent = name;
        for (const [i, canvas] of pictures.entries()) {
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", `${name}, picture ${i + 1}`);
        }
        row.append(label, ...pictures);
        return row;
      }),
    );
  }

  verdict({ parity, reference, expected, failure }) {
    this.share(1);
    this.find("progress").hidden = true;
    const text = this.find(".verdict");
    if (failure) {
      this.fail(failure);
    } else if (parity) {
      const same = parity.identical ? "the very same pictures" : `${parity.mean_db?.toFixed(1) ?? "no"} dB`;
      text.textContent = parity.passed
        ? `Pictures match the reference: ${same} (gate ${parity.gate_db} dB)`
        : `Pictures do not match the reference: ${same} (gate ${parity.gate_db} dB)`;
      text.className = `verdict ${parity.passed ? "good" : "bad"}`;
      text.hidden = false;
    }
    if (failure) return;
    this.step(`done, ${this.ms.length} runs; the record has arrived`);
    if (expected && this.images.length > 0) {
      const truth = { ...expected, data: typedArray(expected.dtype, fromBase64(expected.data)) };
      const mine = joined(this.images);
      this.rows([
        ["Reference", canvases(truth)],
        ["This browser", canvases(mine)],
        ["Difference ×10", differences(truth, mine)],
      ]);
    }
    this.find(".pictures figcaption").textContent = `Reference: ${reference}`;
  }

  fail(message) {
    this.root.classList.add("failed");
    this.find("progress").hidden = true;
    this.step(message);
  }
}

/** Run one job in a worker; resolves when it has told its last line. */
function work(host, job, card, facts, whenStopped) {
  const { device, why: deviceWhy } = deviceFacts(facts, job.provider);
  const { promise, resolve } = Promise.withResolvers?.() ?? deferred();
  const worker = new Worker("runner.mjs", { type: "module" });
  const end = (how) => {
    worker.terminate();
    resolve(how);
  };
  whenStopped(() => end("stopped"));
  worker.onerror = (event) => {
    const message = event.message || "the worker did not start";
    host.report(job.index, [{ kind: "error", stage: "start", message }]).catch(() => {});
    card.fail(message);
    end("failed");
  };
  worker.onmessage = ({ data }) => {
    if (data.what === "line") card.line(data.line);
    if (data.what === "step") card.step(data.text);
    if (data.what === "picture") card.picture(data);
    if (data.what === "download") {
      card.step(`fetching the model: ${megabytes(data.got)} of ${megabytes(data.total)}`);
      card.share(data.got / data.total);
    }
    if (data.what === "progress") {
      card.step(`measuring: ${data.count} runs`);
      card.share(data.share);
    }
    if (data.what === "minute") card.step(`sustained: minute ${data.minute} of ${data.of}`);
    if (data.what === "failed") {
      card.fail(data.message);
      end("failed");
    }
    if (data.what === "done") end("done");
  };
  const { index, files } = job;
  worker.postMessage({ base: BASE, key: host.key, index, files, device, deviceWhy, facts });
  return promise;
}

function deferred() {
  let resolve;
  const promise = new Promise((given) => (resolve = given));
  return { promise, resolve };
}

async function main() {
  const facts = await pageFacts();
  showFacts(facts);
  const { host, jobs } = await Host.claim(BASE);
  let leaving = true;
  addEventListener("pagehide", () => leaving && host.leave());
  let hidden = () => {};
  document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && hidden());
  // A phone that locks its screen stops the page; where this is refused the user's finger has to do.
  const awake = await navigator.wakeLock?.request("screen").catch(() => null);
  const button = document.querySelector("#stop");
  let stop = () => {};
  let stopped = false;
  button.hidden = false;
  button.onclick = () => {
    stopped = true;
    stop();
  };
  const cards = jobs.map((job) => new Card(job));
  for (const [i, job] of jobs.entries()) {
    if (stopped) break;
    state(`Measuring${jobs.length > 1 ? ` ${i + 1} of ${jobs.length}` : ""}. Keep this page in front.`);
    // A software adapter takes 28 s for what WebAssembly does in 0.2 s: measured only when asked for by name.
    const without = !facts.gpu ? facts.whyNoGpu : facts.gpu.fallback ? "this browser's WebGPU is software" : null;
    if (job.optional && job.provider === "webgpu" && without) {
      await host.ask(`jobs/${job.index}/skip`, { method: "POST", body: "" });
      cards[i].fail(`left out: ${without}`);
      continue;
    }
    hidden = () => host.ask(`jobs/${job.index}/hidden`, { method: "POST", body: "" }).catch(() => {});
    if (document.visibilityState === "hidden") hidden();
    const how = await work(host, job, cards[i], facts, (how) => (stop = how));
    if (how === "stopped") break;
    cards[i].verdict(await host.verdict(job.index));
  }
  leaving = false;
  if (stopped) host.leave();
  button.hidden = true;
  await awake?.release().catch(() => {});
  state(stopped ? "Stopped; what was measured is kept. You may close this page." : "Done. You may close this page.");
  document.body.dataset.state = stopped ? "stopped" : "done";
}

main().catch((error) => {
  state(error instanceof Refused ? error.message : `This did not work: ${error.message ?? error}`);
  document.querySelector("#stop").hidden = true;
  document.body.dataset.state = "failed";
});
