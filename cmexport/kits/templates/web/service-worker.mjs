/**
 * Keeps the page, so that it works offline after the first visit. The newest version is always asked for first: what is
 * kept only stands in for a server that does not answer. Models are not its business: `src/files.mjs` keeps them by hash.
 *
 * It also isolates the page where the server can't be made to, which gives WebAssembly its threads on the second visit.
 */

const scope = /** @type {any} */ (self);
const CACHE = "cmexport-page";
// What the page has loaded before this worker could see it; all else comes through `fetch` below.
const FIRST = ["./", "models.json", "page/boot.mjs", "page/page.css", "page/icon.svg", "page/page.webmanifest"];
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

scope.addEventListener("install", (/** @type {any} */ event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FIRST)));
  scope.skipWaiting();
});

scope.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(scope.clients.claim()));

scope.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const below = new URL(scope.registration.scope).pathname;
  const model = pathname.slice(below.length).split("/").includes("model");
  if (request.method !== "GET" || origin !== scope.location.origin || model) return;
  event.respondWith(answer(request));
});

/** @param {Request} request @returns {Promise<Response>} */
async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const found = isolated(await fetch(request));
    if (found.ok) await cache.put(request, found.clone());
    return found;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}

/** @param {Response} response @returns {Response} */
function isolated(response) {
  if (response.type === "opaque" || response.status === 0 || response.headers.has("Cross-Origin-Embedder-Policy")) {
    return response;
  }
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
