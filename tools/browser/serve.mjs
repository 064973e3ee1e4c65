// Serves a folder on this machine alone, with the headers that let WebAssembly use several threads.
//
//     node tools/browser/serve.mjs FOLDER [PORT]

import { createReadStream, realpathSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
// A page that is isolated from others may share memory between its threads.
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** A server of a folder that listens at 127.0.0.1; `asked` is told of every request. */
export function serve(folder, { port = 0, isolated = true, asked = () => {} } = {}) {
  const root = realpathSync(folder);
  const server = createServer((request, response) => {
    asked(request.url);
    const path = pathOf(root, request.url);
    const found = path.startsWith(root + sep) ? statSync(path, { throwIfNoEntry: false }) : undefined;
    if (!found?.isFile()) return response.writeHead(404).end();
    const type = TYPES[extname(path)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type, "Content-Length": found.size, ...(isolated ? ISOLATED : {}) });
    createReadStream(path).pipe(response);
  });
  return new Promise((done) => {
    server.listen(port, "127.0.0.1", () => done({ server, address: `http://127.0.0.1:${server.address().port}/` }));
  });
}

function pathOf(root, url) {
  try {
    const { pathname } = new URL(url, "http://localhost");
    return resolve(root, `.${decodeURIComponent(pathname.endsWith("/") ? `${pathname}index.html` : pathname)}`);
  } catch {
    return "";
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [folder = ".", port = "8000"] = process.argv.slice(2);
  console.log((await serve(folder, { port: Number(port) })).address);
}
