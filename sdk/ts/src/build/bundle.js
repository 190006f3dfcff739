import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build, formatMessages } from "esbuild";
import { BuildError } from "./error.js";

const RUNTIME = fileURLToPath(new URL("../runtime/", import.meta.url));

// The globals are put in place before the author's module is evaluated: what it captures at module scope is already ours.
const entrySource = (entry) => `
import ${JSON.stringify(`${RUNTIME}globals.js`)};
import * as author from ${JSON.stringify(entry)};
import { createHandler } from ${JSON.stringify(`${RUNTIME}serve.js`)};
export const incomingHandler = createHandler(author);
`;

// There is no page, and reading \`location\` while the snapshot is taken throws inside the engine.
const NO_LOCATION = Object.fromEntries(
  ["location", "self.location", "window.location", "globalThis.location"].map((name) => [name, "undefined"]),
);

/** Bundles the author's entry with our wrapper into one ES module and returns its text. */
export async function bundle({ entry, minify }) {
  try {
    const result = await build({
      stdin: { contents: entrySource(entry), resolveDir: dirname(entry), sourcefile: "tidegate-entry.js" },
      bundle: true,
      write: false,
      format: "esm",
      platform: "browser",
      target: "es2023",
      conditions: ["tidegate", "workerd", "worker", "browser", "import"],
      mainFields: ["module", "browser", "main"],
      external: ["wasi:*", "tidegate:*"],
      define: { "process.env.NODE_ENV": '"production"', ...NO_LOCATION },
      minify,
      keepNames: minify,
      logLevel: "silent",
    });
    const [file] = result.outputFiles;
    return file.text;
  } catch (error) {
    if (!Array.isArray(error?.errors)) throw error;
    const lines = await formatMessages(error.errors, { kind: "error", color: process.stderr.isTTY === true });
    throw new BuildError(lines.join("").trimEnd());
  }
}
