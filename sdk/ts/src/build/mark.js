/** Name of the custom section that says: instances of this component may serve more than one request, one after another. */
export const REUSE_SECTION = "tidegate:reuse";

/** Version of the promise the section makes, its whole content. */
export const REUSE_VERSION = "1";

/** Unsigned LEB128, as the binary format writes every length. */
function leb128(value) {
  const bytes = [];
  do {
    const low = value & 0x7f;
    value >>>= 7;
    bytes.push(value === 0 ? low : low | 0x80);
  } while (value !== 0);
  return bytes;
}

/** One custom section: id 0, its size, its name with a length, its content. */
export function customSection(name, content) {
  const encoder = new TextEncoder();
  const nameBytes = encoder.encode(name);
  const contentBytes = encoder.encode(content);
  const nameLength = leb128(nameBytes.length);
  const size = leb128(nameLength.length + nameBytes.length + contentBytes.length);
  return Uint8Array.from([0, ...size, ...nameLength, ...nameBytes, ...contentBytes]);
}

/** The component with the reuse section appended at its top level. */
export function withReuseMark(component) {
  const section = customSection(REUSE_SECTION, REUSE_VERSION);
  const marked = new Uint8Array(component.length + section.length);
  marked.set(component, 0);
  marked.set(section, component.length);
  return marked;
}
