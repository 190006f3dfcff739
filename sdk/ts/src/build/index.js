// From an author's entry file to a component: bundle (esbuild), then snapshot and wrap (componentize.js), then mark.
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join, resolve } from "node:path";
import { bundle } from "./bundle.js";
import { componentize } from "./componentize.js";
import { BuildError } from "./error.js";
import { withReuseMark } from "./mark.js";

export { BuildError };

/** Builds `entry` into the component file `out` and returns its absolute path. Throws a BuildError with a readable text. */
export async function build({ entry, out, minify = false }) {
  const target = resolve(out ?? `${basename(entry, extname(entry))}.wasm`);
  const scratch = await mkdtemp(join(tmpdir(), "tidegate-build-"));
  try {
    const source = await bundle({ entry: resolve(entry), minify });
    const component = withReuseMark(await componentize({ source, name: basename(entry), scratch }));
    await mkdir(dirname(target), { recursive: true });
    // Written beside the target and renamed: whoever watches the file never loads half of it.
    const partial = `${target}.${process.pid}.partial`;
    await writeFile(partial, component);
    await rename(partial, target);
    return target;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
