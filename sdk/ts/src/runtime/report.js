/** An error with its stack, or whatever else was thrown, as text for the log. */
export function describe(error) {
  if (error instanceof Error) return `${error.name}: ${error.message}\n${error.stack ?? ""}`.trimEnd();
  return `thrown value: ${String(error)}`;
}
