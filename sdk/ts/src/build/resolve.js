// componentize-js 0.23 imports @bytecodealliance/preview2-shim without declaring it, so whether Node finds it depends on where
// the package manager happened to put it. We depend on it ourselves and tell Node to look from here.
import * as module from "node:module";

const SHIM = "@bytecodealliance/preview2-shim";

/** Makes imports of the shim resolve from this package, whoever asks. */
export function resolveShimFromHere() {
  if (typeof module.registerHooks === "function") {
    module.registerHooks({
      resolve: (name, context, next) =>
        next(name, name.startsWith(`${SHIM}/`) ? { ...context, parentURL: import.meta.url } : context),
    });
    return;
  }
  const hook = `export const resolve = (name, context, next) =>
    next(name, name.startsWith("${SHIM}/") ? { ...context, parentURL: ${JSON.stringify(import.meta.url)} } : context);`;
  module.register(`data:text/javascript,${encodeURIComponent(hook)}`);
}
