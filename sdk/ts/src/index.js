// What an author may import at run time. The handler form itself needs no import at all; types live in index.d.ts.
export { policyHeader } from "./runtime/policy.js";
