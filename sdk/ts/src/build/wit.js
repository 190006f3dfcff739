import { existsSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { BuildError } from "./error.js";

// The version the JavaScript engine was built for. The packages that come with jco carry the same interfaces under a later
// patch version; 0.2.x only ever adds, so the text is valid under the earlier name.
const ENGINE_WASI = "0.2.10";
const CARRIED_WASI = "0.2.12";
const PACKAGES = ["io", "clocks", "random", "cli", "filesystem", "sockets", "http"];

/** Our world with every WASI package it names, as one WIT text. `jcoRoot` is the folder of the jco package (a file URL). */
export async function worldText(jcoRoot) {
  const packed = new URL("../../wit/world.wit", import.meta.url);
  const inRepository = new URL("../../../wit/world.wit", import.meta.url);
  let text = await readFile(existsSync(packed) ? packed : inRepository, "utf8");
  const carried = new URL(`lib/wit/builtin/${CARRIED_WASI}/`, jcoRoot);
  if (!existsSync(carried)) {
    const has = await readdir(new URL("lib/wit/builtin/", jcoRoot)).catch(() => []);
    throw new BuildError(
      `the installed @bytecodealliance/jco carries no WASI ${CARRIED_WASI} (it has ${has.join(", ") || "none"} in ` +
        `${fileURLToPath(jcoRoot)}): reinstall @tidegate/sdk with its lock file`,
    );
  }
  for (const name of PACKAGES) {
    const original = await readFile(new URL(`wasi-${name}/package.wit`, carried), "utf8");
    const nested = original.replaceAll(`@${CARRIED_WASI}`, `@${ENGINE_WASI}`).replace(/^package ([^;]+);/m, "package $1 {");
    text += `\n${nested}\n}\n`;
  }
  return text;
}
