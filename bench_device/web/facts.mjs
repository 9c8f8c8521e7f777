/** What a browser tells about itself, its device and the rules it puts this page under. */

// (module (func (result v128) i32.const 0 i8x16.splat)): valid only where WebAssembly has SIMD.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/** Smallest step of performance.now() in milliseconds: browsers coarsen it, most where a page is not isolated. */
function timerStep() {
  let step = Infinity;
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    step = Math.min(step, now - start);
  }
  return Number(step.toFixed(4));
}

function batteryOf(manager) {
  return { charger: manager.charging ? "charging" : "none", battery_percent: Math.round(manager.level * 1000) / 10 };
}

/** Facts of the page, not of a worker: half of these are only told to a window. */
export async function pageFacts() {
  const hints = ["model", "platform", "platformVersion", "architecture", "bitness", "fullVersionList"];
  const agent = (await navigator.userAgentData?.getHighEntropyValues(hints).catch(() => null)) ?? null;
  const manager = (await navigator.getBattery?.().catch(() => null)) ?? null;
  const adapter = (await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null)) ?? null;
  return {
    userAgent: navigator.userAgent,
    agent,
    battery: manager && batteryOf(manager),
    secure: isSecureContext,
    isolated: crossOriginIsolated,
    simd: WebAssembly.validate(SIMD),
    cores: navigator.hardwareConcurrency ?? null,
    memoryGb: navigator.deviceMemory ?? null,
    timerStepMs: timerStep(),
    gpu: adapter && {
      name: [adapter.info?.vendor, adapter.info?.architecture, adapter.info?.device, adapter.info?.description]
        .filter(Boolean)
        .join(" "),
      fallback: adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? null,
      half: adapter.features.has("shader-f16"),
    },
    whyNoGpu: adapter ? null : whyNoGpu(),
    screen: `${screen.width} x ${screen.height} at ${devicePixelRatio}`,
  };
}

function whyNoGpu() {
  if (!isSecureContext) return "browsers keep WebGPU from pages that come over plain http from another machine; it needs https";
  return navigator.gpu ? "this browser has WebGPU, but found no adapter" : "this browser has no WebGPU";
}

/** Why WebAssembly has one thread only; null where it may have more. */
export function whyOneThread(facts) {
  if (facts.isolated) return null;
  if (!facts.secure) return "browsers keep threads from pages that come over plain http from another machine; it needs https";
  return "this page is not cross-origin isolated";
}

/** The `device` part of a `meta` line. @param {Awaited<ReturnType<typeof pageFacts>>} facts @param {string} provider */
export function deviceFacts(facts, provider) {
  const { agent, battery, gpu } = facts;
  const system = agent && [agent.platform, agent.platformVersion, agent.architecture].filter(Boolean).join(" ");
  const hidden = "browsers don't tell a page";
  const device = {
    model: agent?.model || null,
    processor: null,
    cores: facts.cores,
    memory_bytes: null,
    os: system || null,
    accelerator: provider === "webgpu" ? gpu?.name || null : null,
    features: [facts.simd && "wasm-simd", facts.isolated && "wasm-threads", gpu?.half && "shader-f16"].filter(Boolean),
    power: {
      charger: battery?.charger ?? null,
      battery_percent: battery?.battery_percent ?? null,
      low_power_mode: null,
      power_mode: null,
      airplane_mode: null,
      screen_on: document.visibilityState === "visible" ? true : null,
    },
    facts: {
      user_agent: facts.userAgent,
      secure_context: facts.secure,
      cross_origin_isolated: facts.isolated,
      wasm_simd: facts.simd,
      wasm_threads: facts.isolated,
      shader_f16: gpu?.half ?? null,
      timer_step_ms: facts.timerStepMs,
      device_memory_gb_rounded: facts.memoryGb,
      screen: facts.screen,
      webgpu: gpu ? gpu.name || "an adapter without a name" : facts.whyNoGpu,
      webgpu_fallback_adapter: gpu?.fallback ?? null,
    },
  };
  const why = {
    model: "this browser doesn't name the device; see user_agent",
    processor: hidden,
    cores: hidden,
    memory_bytes: "browsers round it to a power of two, if they tell it at all",
    os: "this browser only names it in user_agent",
    accelerator: provider === "webgpu" ? "the adapter has no name" : "the run is on the CPU",
    charger: "this browser has no battery interface",
    battery_percent: "this browser has no battery interface",
    low_power_mode: hidden,
    power_mode: hidden,
    airplane_mode: hidden,
    screen_on: "the page was not in view",
  };
  const missing = [...Object.entries(device), ...Object.entries(device.power)].filter(([, v]) => v === null);
  return { device, why: Object.fromEntries(missing.map(([name]) => [name, why[name]])) };
}
