// From one bundled ES module to a component: splice bindings for our world into the engine, run the module once inside it
// and keep the memory (wizer), stub what the snapshot must not import, wrap as a component.
//
// These are the steps of `componentize()` in @bytecodealliance/componentize-js, driven from here because two of them need a
// hold that function does not give: the bindings (see bindings.js) and the text of what went wrong.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { BuildError } from "./error.js";
import { withRawImports } from "./bindings.js";
import { resolveShimFromHere } from "./resolve.js";
import { worldText } from "./wit.js";

const FEATURES = ["stdio", "random", "clocks", "http"];
const WORLD = "handler";

let tools;

/** The installed pieces of componentize-js and what it depends on, found from wherever npm put them. */
async function loadTools() {
  resolveShimFromHere();
  const main = import.meta.resolve("@bytecodealliance/componentize-js");
  const require = createRequire(main);
  const load = (name) => import(pathToFileURL(require.resolve(name)).href);
  const jcoMain = pathToFileURL(require.resolve("@bytecodealliance/jco"));
  const [{ splicer }, { default: wizer }, jco] = await Promise.all([
    import(new URL("../lib/spidermonkey-embedding-splicer.js", main)),
    load("@bytecodealliance/wizer"),
    load("@bytecodealliance/jco"),
  ]);
  if (!existsSync(wizer)) throw new BuildError(`the snapshot tool is missing at ${wizer}: run npm ci without --omit=optional`);
  return {
    splicer,
    wizer,
    jco,
    engine: await readFile(new URL("../lib/starlingmonkey_embedding.wasm", main)),
    adapter: await readFile(jco.preview1AdapterReactorPath()),
    world: await worldText(new URL("../", jcoMain)),
  };
}

/** The environment through which the engine learns what it exports and imports. Format: embedding.cpp of componentize-js. */
function engineEnvironment({ name, exports, imports }) {
  const env = { DEBUG: "", SOURCE_NAME: name, EXPORT_CNT: String(exports.length), FEATURE_CLOCKS: "1" };
  for (const [i, [exported, fn]] of exports.entries()) {
    env[`EXPORT${i}_NAME`] = exported;
    env[`EXPORT${i}_ARGS`] = (fn.paramptr ? "*" : "") + fn.params.join(",");
    env[`EXPORT${i}_RET`] = (fn.retptr ? "*" : "") + (fn.ret ?? "");
    env[`EXPORT${i}_RETSIZE`] = String(fn.retsize);
  }
  for (const [i, [, imported, count]] of imports.entries()) {
    env[`IMPORT${i}_NAME`] = imported;
    env[`IMPORT${i}_ARGCNT`] = String(count);
  }
  env.IMPORT_CNT = String(imports.length);
  return env;
}

/** Runs `program` with `input` on its standard input. Resolves to its exit and everything it wrote. */
function run(program, args, { env, input }) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (output += text));
    child.stdin.on("error", () => {});
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, output }));
    child.stdin.end(input);
  });
}

/** The part of the snapshot tool's output an author can use: what JavaScript said, without the tool's own backtrace. */
function readableFailure({ code, signal, output }) {
  const said = output.split(/^Error: the `componentize\.wizer` function trapped/m)[0].trim();
  const why = said || output.trim() || `the snapshot tool ended with ${signal ?? `exit code ${code}`}`;
  return (
    `the module could not be evaluated at build time:\n\n${why}\n\n` +
    "Code at module scope runs once, at build, without network, clock or environment. Move such work into fetch()."
  );
}

/** Asks the snapshot whether its exports are all there, the way the host would find out: by running it. */
async function checkExports(core) {
  const module = await WebAssembly.compile(core);
  let said = "";
  const imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    (imports[from] ??= {})[name] = () => {
      throw new Error(`${name} called while the snapshot was checked`);
    };
  }
  imports.wasi_snapshot_preview1.fd_write = (fd, vectors, count, written) => {
    const view = new DataView(exports.memory.buffer);
    let total = 0;
    for (let i = 0; i < count; i++) {
      const [at, length] = [view.getUint32(vectors + i * 8, true), view.getUint32(vectors + i * 8 + 4, true)];
      if (fd === 2) said += new TextDecoder().decode(new Uint8Array(exports.memory.buffer, at, length));
      total += length;
    }
    view.setUint32(written, total, true);
    return 0;
  };
  const { exports } = await WebAssembly.instantiate(module, imports);
  if (exports.check_init() !== 0) throw new BuildError(`the module does not export what a function needs:\n${said.trim()}`);
}

/** Makes a component of the ES module `source`. `scratch` is an empty folder that the caller removes. */
export async function componentize({ source, name, scratch }) {
  tools ??= loadTools();
  const { splicer, wizer, jco, engine, adapter, world } = await tools;

  const spliced = splicer.spliceBindings(engine, FEATURES, world, undefined, WORLD, false);
  const files = { engine: join(scratch, "engine.wasm"), core: join(scratch, "core.wasm") };
  await Promise.all([
    writeFile(files.engine, spliced.wasm),
    writeFile(join(scratch, "initializer.js"), withRawImports(spliced.jsBindings, spliced.imports)),
    writeFile(join(scratch, "function.js"), source),
  ]);

  const snapshot = await run(
    wizer,
    [
      "--allow-wasi",
      "--init-func=componentize.wizer",
      `--mapdir=/::${scratch}`,
      "--wasm-bulk-memory=true",
      "--inherit-env=true",
      `-o=${files.core}`,
      files.engine,
    ],
    {
      env: engineEnvironment({ name, exports: spliced.exports, imports: spliced.imports }),
      input: "--initializer-script-path initializer.js --strip-path-prefix / function.js",
    },
  );
  if (snapshot.code !== 0) throw new BuildError(readableFailure(snapshot));
  // What module scope printed is the author's: pass it on.
  if (snapshot.output.trim()) process.stderr.write(snapshot.output);

  const core = await readFile(files.core);
  await checkExports(core);
  const stubbed = splicer.stubWasi(core, FEATURES, world, undefined, WORLD);
  return jco.componentNew(stubbed, [["wasi_snapshot_preview1", adapter]], false);
}
