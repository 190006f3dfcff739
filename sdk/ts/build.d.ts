/** What to build. */
export interface BuildOptions {
  /** The author's entry file, with `export default { fetch }`. */
  entry: string;
  /** Where the component goes; by default the entry's name with `.wasm` in the current folder. */
  out?: string | undefined;
  /** Shorter code, less readable stack traces. */
  minify?: boolean | undefined;
}

/** Bundles the entry and makes a component of it. Resolves to the component's absolute path. */
export function build(options: BuildOptions): Promise<string>;

/** A build that failed for a reason the author can do something about; the message is all they need to see. */
export class BuildError extends Error {}
