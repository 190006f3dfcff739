import { parseArgs } from "node:util";
import { stat } from "node:fs/promises";
import { relative } from "node:path";
import { build, BuildError } from "./index.js";

const USAGE = `usage: tidegate-sdk build ENTRY [-o OUT.wasm]

Bundles ENTRY (TypeScript or JavaScript, with its npm imports) and makes a WebAssembly component of it.
ENTRY has "export default { fetch(req, env, ctx) { ... } }".

  -o, --out FILE    where the component goes (default: ENTRY's name with .wasm, in the current folder)
      --minify      shorter code, less readable stack traces
  -h, --help        this text
`;

/** Runs the command line. Returns the exit code: 0 built, 1 the build failed, 2 the command was not understood. */
export async function main(argv) {
  let args;
  try {
    args = parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        out: { type: "string", short: "o" },
        minify: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${USAGE}`);
    return 2;
  }
  const [command, entry, ...rest] = args.positionals;
  if (args.values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (command !== "build" || !entry || rest.length > 0) {
    process.stderr.write(USAGE);
    return 2;
  }
  const started = Date.now();
  try {
    const out = await build({ entry, out: args.values.out, minify: args.values.minify });
    const { size } = await stat(out);
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    process.stdout.write(`${relative(process.cwd(), out)}  ${(size / 1e6).toFixed(1)} MB  ${seconds} s\n`);
    return 0;
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    process.stderr.write(`${error.message}\n`);
    return 1;
  }
}
