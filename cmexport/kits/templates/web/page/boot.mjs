/** The service worker first, so that all the page loads from here on goes through it and is kept for offline. */

const LONGEST_WAIT_MS = 3000;

async function keepForOffline() {
  if (!("serviceWorker" in navigator)) return;
  const { serviceWorker } = navigator;
  await serviceWorker.register(new URL("../service-worker.mjs", import.meta.url), { scope: "./" });
  if (serviceWorker.controller) return;
  await new Promise((resolve) => {
    serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, LONGEST_WAIT_MS);
  });
}

// Without one (a private window, plain http) the page works as well, online.
await keepForOffline().catch((error) => console.info(`not kept for offline: ${error.message}`));
const { start } = await import("./page.mjs");
await start();
