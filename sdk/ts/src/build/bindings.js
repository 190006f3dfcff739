// What we change in the bindings that componentize-js generates for the world.
//
// The generated classes are comfortable and slow: an object with a registered finalizer for every handle, strings encoded
// one character at a time by interpreted code, a fresh DataView for every field. Our wrapper calls the same core imports
// directly (`runtime/raw.js`), so the snapshot gets one more built-in module that holds them, and the exported function
// passes its two handles on as plain numbers.
import { BuildError } from "./error.js";

/** The core imports our wrapper calls: [name in the raw module, interface, function]. */
const RAW = [
  ["getEnvironment", "wasi:cli/environment", "get-environment"],
  ["dropPollable", "wasi:io/poll", "[resource-drop]pollable"],
  ["pollableReady", "wasi:io/poll", "[method]pollable.ready"],
  ["pollableBlock", "wasi:io/poll", "[method]pollable.block"],
  ["poll", "wasi:io/poll", "poll"],
  ["subscribeDuration", "wasi:clocks/monotonic-clock", "subscribe-duration"],
  ["dropError", "wasi:io/error", "[resource-drop]error"],
  ["read", "wasi:io/streams", "[method]input-stream.read"],
  ["subscribeInput", "wasi:io/streams", "[method]input-stream.subscribe"],
  ["dropInput", "wasi:io/streams", "[resource-drop]input-stream"],
  ["checkWrite", "wasi:io/streams", "[method]output-stream.check-write"],
  ["write", "wasi:io/streams", "[method]output-stream.write"],
  ["subscribeOutput", "wasi:io/streams", "[method]output-stream.subscribe"],
  ["dropOutput", "wasi:io/streams", "[resource-drop]output-stream"],
  ["requestMethod", "wasi:http/types", "[method]incoming-request.method"],
  ["requestPath", "wasi:http/types", "[method]incoming-request.path-with-query"],
  ["requestScheme", "wasi:http/types", "[method]incoming-request.scheme"],
  ["requestAuthority", "wasi:http/types", "[method]incoming-request.authority"],
  ["requestHeaders", "wasi:http/types", "[method]incoming-request.headers"],
  ["requestConsume", "wasi:http/types", "[method]incoming-request.consume"],
  ["dropRequest", "wasi:http/types", "[resource-drop]incoming-request"],
  ["fieldsEntries", "wasi:http/types", "[method]fields.entries"],
  ["fieldsFromList", "wasi:http/types", "[static]fields.from-list"],
  ["dropFields", "wasi:http/types", "[resource-drop]fields"],
  ["bodyStream", "wasi:http/types", "[method]incoming-body.stream"],
  ["dropIncomingBody", "wasi:http/types", "[resource-drop]incoming-body"],
  ["newResponse", "wasi:http/types", "[constructor]outgoing-response"],
  ["setStatus", "wasi:http/types", "[method]outgoing-response.set-status-code"],
  ["responseBody", "wasi:http/types", "[method]outgoing-response.body"],
  ["setOutparam", "wasi:http/types", "[static]response-outparam.set"],
  ["bodyWrite", "wasi:http/types", "[method]outgoing-body.write"],
  ["finishBody", "wasi:http/types", "[static]outgoing-body.finish"],
  ["dropOutgoingBody", "wasi:http/types", "[resource-drop]outgoing-body"],
];

/** `wasi:http/types@0.2.10` names the interface `wasi:http/types`. */
const unversioned = (name) => name.replace(/@.*$/, "");

/**
 * The generated bindings, with the module `tidegate:raw` added and the handler's arguments left as numbers.
 *
 * @param {string} bindings the text componentize-js generated
 * @param {[string, string, number][]} imports interface, function and argument count of each core import, in their order
 */
export function withRawImports(bindings, imports) {
  // The engine puts everything a binding may call in one array: memory, realloc, dealloc, then the imports in order.
  const list = bindings.match(/^let \[([^\]]+)\] = \$bindings;$/m);
  const names = list?.[1].split(",").map((name) => name.trim());
  if (names?.length !== imports.length + 3) {
    throw new BuildError("the bindings of this componentize-js are not those this SDK was made for: install version 0.23.0");
  }
  const core = new Map(imports.map(([iface, fn], i) => [`${unversioned(iface)} ${fn}`, names[i + 3]]));
  const members = RAW.map(([name, iface, fn]) => {
    const variable = core.get(`${iface} ${fn}`);
    if (!variable) throw new BuildError(`the engine offers no ${iface} ${fn}: install @bytecodealliance/componentize-js 0.23.0`);
    return `  ${name}: ${variable},`;
  });
  members.unshift(`  memory: ${names[0]},`, `  realloc: ${names[1]},`, `  dealloc: ${names[2]},`);
  const raw = `\ndefineBuiltinModule('tidegate:raw', {\n${members.join("\n")}\n});\n`;

  const handler = /async function (export_incomingHandler_\w+\$handle)\(arg0, arg1\) \{[\s\S]*?\n\}\n/;
  const target = bindings.match(/let (incomingHandler\w+Handle);/);
  if (!handler.test(bindings) || !target) {
    throw new BuildError("the bindings of this componentize-js are not those this SDK was made for: install version 0.23.0");
  }
  return bindings.replace(handler, (_, name) => `function ${name}(arg0, arg1) {\n  return ${target[1]}(arg0, arg1);\n}\n`) + raw;
}
